"""What is wrong with a project's snapshots, and how to mend it."""
