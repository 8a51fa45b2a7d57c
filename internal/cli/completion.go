package cli

import (
	"bytes"

	"github.com/spf13/cobra"

	"mvm"
)

const completionHelp = `Print a script that makes the shell complete mvm's commands, flags and names.

  bash  source <(mvm completion bash)
  zsh   source <(mvm completion zsh)
  fish  mvm completion fish | source
`

func (a *app) completionCmd(root *cobra.Command) *cobra.Command {
	return &cobra.Command{Use: "completion bash|zsh|fish", Short: "Print a completion script for the shell", Long: completionHelp,
		Args: cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs), ValidArgs: []string{"bash", "zsh", "fish"},
		RunE: func(_ *cobra.Command, args []string) error {
			switch args[0] {
			case "zsh":
				return root.GenZshCompletion(a.Stdout)
			case "fish":
				return root.GenFishCompletion(a.Stdout, true)
			}
			var b bytes.Buffer
			if err := root.GenBashCompletionV2(&b, true); err != nil {
				return mvm.Errorf(mvm.KindInternal, "make completion script: %w", err)
			}
			return a.WriteText(bytes.Replace(b.Bytes(), []byte(wordsByPackage), []byte(wordsByOurselves), 1))
		}}
}

// wordsByPackage is how the script of cobra has the command line taken apart: by a
// function of the package bash-completion, without which every completion fails.
const wordsByPackage = `    COMPREPLY=()
    _get_comp_words_by_ref "$@" cur prev words cword
}
`

// wordsByOurselves does without the package: bash splits words at = and :, and what had
// no space between belongs together.
const wordsByOurselves = `    COMPREPLY=()
    if declare -F _get_comp_words_by_ref >/dev/null 2>&1; then
        _get_comp_words_by_ref "$@" cur prev words cword
        return
    fi
    local i word rest last="" line="${COMP_LINE:0:COMP_POINT}"
    words=()
    for ((i = 0; i <= COMP_CWORD; i++)); do
        word="${COMP_WORDS[i]}"
        rest="${line#"${line%%[![:space:]]*}"}"
        if ((i == COMP_CWORD)) && [[ "$word" == "$rest"* ]]; then
            word="$rest" # as far as the cursor
        fi
        if ((i > 0)) && [[ "$rest" == "$line" && ( "$word" == [=:]* || "$last" == *[=:] ) ]]; then
            words[${#words[@]}-1]+="$word"
        else
            words+=("$word")
        fi
        last="$word"
        line="${rest#"$word"}"
    done
    cword=$((${#words[@]} - 1))
    cur="${words[cword]}"
    prev=""
    if ((cword > 0)); then
        prev="${words[cword - 1]}"
    fi
}
`
