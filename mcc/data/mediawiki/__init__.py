"""How MediaWiki's dumps and wikitext are read."""
