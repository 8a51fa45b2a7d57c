package display

import "strings"

// logMark begins the lines of a log within an error.
const logMark = "\n| "

// QuoteLog is lines of a log as they are added to the text of an error; "" where there are
// none.
func QuoteLog(lines []string) string {
	if len(lines) == 0 {
		return ""
	}
	clean := make([]string, len(lines))
	for n, l := range lines {
		clean[n] = strings.ReplaceAll(l, "\n", " ")
	}
	return "; its last lines:" + logMark + strings.Join(clean, logMark)
}

// WithoutLog is an error's text without the lines that QuoteLog added: for records and logs.
func WithoutLog(text string) string {
	var kept []string
	for _, l := range strings.Split(text, "\n") {
		if !strings.HasPrefix(l, logMark[1:]) {
			kept = append(kept, strings.TrimSuffix(l, "; its last lines:"))
			continue
		}
		if at := strings.LastIndex(l, " (see `mvm logs "); at >= 0 { // the fix is behind the last
			kept[len(kept)-1] += l[at:]
		}
	}
	return strings.Join(kept, "\n")
}

// Recordable is what is kept of an error on a record.
func Recordable(err error) string { return Clip(WithoutLog(err.Error())) }
