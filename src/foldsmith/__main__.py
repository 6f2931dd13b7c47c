from foldsmith.cli import entry

entry()
