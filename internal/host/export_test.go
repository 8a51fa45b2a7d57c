package host

// NewLogger is what agent and hostd log with.
var NewLogger = newLogger
