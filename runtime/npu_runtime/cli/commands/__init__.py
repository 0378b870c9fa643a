"""The commands, a file each: its parser (`add`) and what it does (`run`)."""
