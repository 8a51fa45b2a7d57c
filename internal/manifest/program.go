package manifest

import (
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"mvm"
	"mvm/internal/stricttoml"
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
	doc, root := stricttoml.Parse(file, data)
	if root != nil {
		readProgram(root, &p)
		root.Done()
	}
	if err := doc.Problems.Err(); err != nil {
		return Program{}, err
	}
	return p, nil
}

func readProgram(t *stricttoml.Table, p *Program) {
	t.Str("name", &p.Name, validName("image"))
	t.Str("from", &p.From, mvm.ValidateFlake)
	t.Str("binary", &p.Binary, ValidSource)
	if i, ok := t.Get("cmd"); ok {
		p.Command = readCommand(i)
	}
	t.Integer("port", &p.Port, 1, maxPort)
	t.Str("ready", &p.Ready, ValidReady)
	t.Str("user", &p.User, notEmpty)
	t.Str("workdir", &p.Dir, validGuestPath)
	t.Str("stop_signal", &p.Stop, notEmpty)
	p.Env = readEnv(t)
	for _, sub := range t.Tables("files", MaxProgramFiles) {
		var f ProgramFile
		sub.NeedStr("src", &f.Source, ValidSource)
		sub.NeedStr("dst", &f.Path, validGuestPath)
		mode := ""
		sub.Str("mode", &mode, func(s string) (err error) {
			f.Mode, err = ParseMode(s)
			return err
		})
		sub.Done()
		p.Files = append(p.Files, f)
	}
}

// readCommand is a list of words, or a line of them.
func readCommand(i stricttoml.Item) []string {
	if s, ok := i.Val.(string); ok {
		words, err := SplitCommand(s)
		i.Check(err)
		return words
	}
	list, ok := i.Val.([]any)
	if !ok {
		i.WrongType("a string or an array of strings")
		return nil
	}
	if len(list) == 0 || len(list) > maxCommand {
		i.Problem("has %d words, not 1 to %d", len(list), maxCommand)
		return nil
	}
	var words []string
	for _, v := range list {
		s, ok := v.(string)
		if !ok || strings.ContainsRune(s, 0) {
			i.Problem("must be an array of strings")
			return nil
		}
		words = append(words, s)
	}
	if words[0] == "" {
		i.Problem("begins with an empty word")
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
		return 0, fmt.Errorf("%q is not permissions in octal, such as 0644", stricttoml.Clip(s))
	}
	return int(n), nil
}

// ValidReady checks the path of an HTTP request.
func ValidReady(s string) error {
	if !strings.HasPrefix(s, "/") || len(s) > 1024 || strings.ContainsAny(s, " \t\r\n\x00") {
		return fmt.Errorf("%q is not the path of an HTTP request, such as /healthz", stricttoml.Clip(s))
	}
	return nil
}

// ValidSource checks the path of a file of this machine.
func ValidSource(s string) error {
	if s == "" || len(s) > 4096 || strings.ContainsRune(s, 0) {
		return fmt.Errorf("%q is not the path of a file", stricttoml.Clip(s))
	}
	return nil
}

func validGuestPath(s string) error {
	if !path.IsAbs(s) || len(s) > 1024 || strings.ContainsRune(s, 0) {
		return fmt.Errorf("%q is not an absolute path in the guest", stricttoml.Clip(s))
	}
	return nil
}

func notEmpty(s string) error {
	if s == "" || len(s) > 255 || strings.ContainsRune(s, 0) {
		return fmt.Errorf("%q is empty or too long", stricttoml.Clip(s))
	}
	return nil
}
