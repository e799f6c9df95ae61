"""What a device needs to run compiled folders: its bundle, and a board that is only emulated."""
