package nix

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"sync"

	"mvm"
)

// Bounds of what Nix says.
const (
	maxSaid = 64 << 20
	maxTold = 400 // bytes of one line, for people
	kept    = 12  // of the last lines
)

// The parts of Nix's internal-json that are looked at.
type event struct {
	Action string            `json:"action"`
	Level  int               `json:"level"`
	Type   int               `json:"type"`
	Text   string            `json:"text"`
	Msg    string            `json:"msg"`
	Fields []json.RawMessage `json:"fields"`
}

const (
	levelError   = 0
	levelInfo    = 3
	resultOutput = 101 // a line that a build wrote
)

// sayings hand on what Nix says as progress, and remember the end of it.
type sayings struct {
	progress func(mvm.Progress)

	mu     sync.Mutex
	said   int64
	errors []string
	lines  []string // of builds
}

// line takes a line of standard error.
func (s *sayings) line(b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.said += int64(len(b)) + 1; s.said > maxSaid {
		return mvm.Errorf(mvm.KindInvalid, "evaluation and build wrote more than %d MiB of log", maxSaid>>20).WithFix("make the flake say less")
	}
	text, ok := bytes.CutPrefix(b, []byte("@nix "))
	if !ok {
		s.tell(string(b))
		s.errors = keep(s.errors, clip(string(b)))
		return nil
	}
	var e event
	if json.Unmarshal(text, &e) != nil {
		return nil
	}
	switch {
	case e.Action == "msg" && e.Level == levelError:
		s.errors = keep(s.errors, clip(e.Msg))
		s.tell(e.Msg)
	case e.Action == "msg" && e.Level <= levelInfo:
		s.tell(e.Msg)
	case e.Action == "start" && e.Level <= levelInfo:
		s.tell(e.Text)
	case e.Action == "result" && e.Type == resultOutput && len(e.Fields) == 1:
		var out string
		if json.Unmarshal(e.Fields[0], &out) == nil {
			s.lines = keep(s.lines, clip(out))
			s.tell("> " + out)
		}
	}
	return nil
}

func (s *sayings) tell(text string) {
	if text = clip(text); text != "" {
		s.progress(mvm.Progress{Text: text})
	}
}

// keep appends to the last lines.
func keep(lines []string, line string) []string {
	if lines = append(lines, line); len(lines) > kept {
		lines = append(lines[:0], lines[1:]...)
	}
	return lines
}

// clip makes one short line of what a stranger wrote, without colours and other escapes.
func clip(text string) string {
	var out strings.Builder
	for i := 0; i < len(text) && out.Len() < maxTold; i++ {
		switch c := text[i]; {
		case c == 0x1b && i+1 < len(text) && text[i+1] == '[':
			for i += 2; i < len(text) && (text[i] < '@' || text[i] > '~'); {
				i++
			}
		case c == '\n' || c == '\t':
			out.WriteByte(' ')
		case c >= ' ' && c != 0x7f:
			out.WriteByte(c)
		}
	}
	return strings.ToValidUTF8(strings.TrimSpace(out.String()), "\uFFFD")
}

// why is what Nix said last of a failure.
func (s *sayings) why(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.errors) == 0 {
		return err
	}
	text := s.errors[len(s.errors)-1]
	for _, e := range s.errors { // the first is the cause; what follows only says what failed of it
		if e != "" {
			text = e
			break
		}
	}
	if len(s.lines) > 0 && !strings.Contains(text, s.lines[len(s.lines)-1]) {
		return fmt.Errorf("%s; the build wrote last: %s", text, s.lines[len(s.lines)-1])
	}
	return fmt.Errorf("%s", text)
}
