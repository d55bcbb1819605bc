"""Is this host fit? One file per role; each check looks at one thing and says what it found and what to do."""
