package manifest

import (
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"mvm"
)

// Program is what `mvm image build` makes an image of: a program of this machine, with the
// files that it needs, and how it is run.
type Program struct {
	Name    string
	From    string // image that it is added to
	Binary  string // path on this machine; empty: the command is one of the image in From
	Command []string
	Port    int    // TCP port on which it listens; 0: none
	Ready   string // path of an HTTP request that succeeds once it is ready
	User    string
	Dir     string // working folder
	Stop    string // signal that asks it to end
	Env     map[string]string
	Files   []ProgramFile
}

// ProgramFile is a file or folder of this machine that goes into the image.
type ProgramFile struct {
	Source string
	Path   string // in the guest
	Mode   int    // permissions; 0: those of the source
}

// MaxProgramFiles bounds the entries of Program.Files.
const MaxProgramFiles = 1000

const maxCommand = 256

// ReadProgram reads the description of a program. Paths of files in it are relative to its
// folder.
func ReadProgram(file string) (Program, error) {
	data, err := readFile(file)
	if err != nil {
		return Program{}, err
	}
	p, err := ParseProgram(file, data)
	if err != nil {
		return Program{}, err
	}
	base := folderOf(file)
	if p.Binary != "" {
		p.Binary = from(base, p.Binary)
	}
	for i := range p.Files {
		p.Files[i].Source = from(base, p.Files[i].Source)
	}
	return p, nil
}

func from(base, name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(base, name)
}

// ParseProgram parses the description of a program. file is its name in errors.
func ParseProgram(file string, data []byte) (Program, error) {
	if len(data) > MaxFileBytes {
		return Program{}, mvm.Errorf(mvm.KindInvalid, "read %s: it has more than %d bytes", file, MaxFileBytes)
	}
	var p Program
	doc, root := parse(file, data)
	if root != nil {
		root.program(&p)
		root.done()
	}
	if err := doc.problems.err(); err != nil {
		return Program{}, err
	}
	return p, nil
}

func (t *table) program(p *Program) {
	t.str("name", &p.Name, validName("image"))
	t.str("from", &p.From, mvm.ValidateFlake)
	t.str("binary", &p.Binary, ValidSource)
	if i, ok := t.get("cmd"); ok {
		p.Command = i.command()
	}
	t.integer("port", &p.Port, 1, maxPort)
	t.str("ready", &p.Ready, ValidReady)
	t.str("user", &p.User, notEmpty)
	t.str("workdir", &p.Dir, validGuestPath)
	t.str("stop_signal", &p.Stop, notEmpty)
	p.Env = t.env()
	for _, sub := range t.tables("files", MaxProgramFiles) {
		var f ProgramFile
		sub.needStr("src", &f.Source, ValidSource)
		sub.needStr("dst", &f.Path, validGuestPath)
		mode := ""
		sub.str("mode", &mode, func(s string) (err error) {
			f.Mode, err = ParseMode(s)
			return err
		})
		sub.done()
		p.Files = append(p.Files, f)
	}
}

// command is a list of words, or a line of them.
func (i item) command() []string {
	if s, ok := i.val.(string); ok {
		words, err := SplitCommand(s)
		i.check(err)
		return words
	}
	list, ok := i.val.([]any)
	if !ok {
		i.wrongType("a string or an array of strings")
		return nil
	}
	if len(list) == 0 || len(list) > maxCommand {
		i.problem("has %d words, not 1 to %d", len(list), maxCommand)
		return nil
	}
	var words []string
	for _, v := range list {
		s, ok := v.(string)
		if !ok || strings.ContainsRune(s, 0) {
			i.problem("must be an array of strings")
			return nil
		}
		words = append(words, s)
	}
	if words[0] == "" {
		i.problem("begins with an empty word")
	}
	return words
}

// SplitCommand splits a command line at spaces. Quotes hold words together, and a backslash
// takes the next character as it is. There is no shell: what only a shell understands is
// refused.
func SplitCommand(s string) ([]string, error) {
	var words []string
	var word strings.Builder
	quote, open := rune(0), false
	runes := []rune(s)
	for n := 0; n < len(runes); n++ {
		r := runes[n]
		switch {
		case r == 0:
			return nil, errors.New("has a NUL character")
		case quote != 0 && r == quote:
			quote = 0
		case r == '\\' && quote != '\'':
			if n++; n == len(runes) {
				return nil, errors.New("ends with a backslash")
			}
			word.WriteRune(runes[n])
			open = true
		case quote == 0 && (r == '\'' || r == '"'):
			quote, open = r, true
		case quote == 0 && (r == ' ' || r == '\t' || r == '\n'):
			if open {
				words = append(words, word.String())
			}
			word.Reset()
			open = false
		case quote != '\'' && strings.ContainsRune("$`", r), quote == 0 && strings.ContainsRune("|&;<>()*?", r):
			return nil, fmt.Errorf("has %q, which only a shell understands (use cmd = [\"/bin/sh\", \"-c\", \"…\"] in an Mvmfile, or quote it)", r)
		default:
			word.WriteRune(r)
			open = true
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("has a quote %q that is not closed", quote)
	}
	if open {
		words = append(words, word.String())
	}
	if len(words) == 0 || words[0] == "" {
		return nil, errors.New("is empty")
	}
	if len(words) > maxCommand {
		return nil, fmt.Errorf("has %d words, more than %d", len(words), maxCommand)
	}
	return words, nil
}

// ParseMode reads permissions such as "0644".
func ParseMode(s string) (int, error) {
	n, err := strconv.ParseUint(s, 8, 32)
	if err != nil || n == 0 || n > 0o777 {
		return 0, fmt.Errorf("%q is not permissions in octal, such as 0644", clip(s))
	}
	return int(n), nil
}

// ValidReady checks the path of an HTTP request.
func ValidReady(s string) error {
	if !strings.HasPrefix(s, "/") || len(s) > 1024 || strings.ContainsAny(s, " \t\r\n\x00") {
		return fmt.Errorf("%q is not the path of an HTTP request, such as /healthz", clip(s))
	}
	return nil
}

// ValidSource checks the path of a file of this machine.
func ValidSource(s string) error {
	if s == "" || len(s) > 4096 || strings.ContainsRune(s, 0) {
		return fmt.Errorf("%q is not the path of a file", clip(s))
	}
	return nil
}

func validGuestPath(s string) error {
	if !path.IsAbs(s) || len(s) > 1024 || strings.ContainsRune(s, 0) {
		return fmt.Errorf("%q is not an absolute path in the guest", clip(s))
	}
	return nil
}

func notEmpty(s string) error {
	if s == "" || len(s) > 255 || strings.ContainsRune(s, 0) {
		return fmt.Errorf("%q is empty or too long", clip(s))
	}
	return nil
}
