"""The dispatcher: takes start requests and gives each session one fresh machine with a bot."""
