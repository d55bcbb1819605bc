# Shared by the build scripts of this folder: messages, refusals, the cache key. Sourced, not run.

say() { printf 'image: %s\n' "$*" >&2; }

refuse() {
    printf 'error: %s\ncause: %s\nhint: %s\n' "$1" "$2" "$3" >&2
    exit 4
}

# An image is named after a hash of everything that it is made from. Arguments: files and folders beside this one.
recipe_key() {
    (cd "$here" && find common.sh "$@" -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum) | sha256sum | cut -c1-16
}

# need_tools WHAT TOOL...: refuses unless this is root and every tool is there.
need_tools() {
    local what=$1 tool
    shift
    [[ $EUID -eq 0 ]] || refuse 'the image is built as root' 'it needs the files of another system' "sudo make $what"
    for tool in "$@"; do
        command -v "$tool" >/dev/null || refuse "$tool is missing" 'the image cannot be built without it' 'make deps'
    done
}

# The words of packages files, comma separated.
package_list() { sed -e 's/#.*//' -e 's/[[:space:]]*$//' -e '/^$/d' "$@" | paste -sd,; }
