//! `completion`: scripts that ask wharf itself what may follow.

use super::Outcome;
use crate::app::{Call, prog, say};
use crate::failure::Failure;

const BASH: &str = r#"# bash completion for PROG
_PROG_complete() {
    local cur words cword reply
    words=("${COMP_WORDS[@]:0:COMP_CWORD+1}")
    cur="${COMP_WORDS[COMP_CWORD]}"
    reply=$("${words[0]}" __completeNoDesc "${words[@]:1}" 2>/dev/null) || return
    local directive="${reply##*:}"
    reply="${reply%:*}"
    COMPREPLY=($(compgen -W "$reply" -- "$cur"))
    if [ "${directive:-0}" = 0 ] && [ ${#COMPREPLY[@]} -eq 0 ]; then
        COMPREPLY=($(compgen -f -- "$cur"))
    fi
}
complete -o nosort -F _PROG_complete PROG
"#;

const ZSH: &str = r#"#compdef PROG
_PROG() {
    local -a lines
    local out
    out=("${(@f)$(${words[1]} __complete ${words[2,$CURRENT]} 2>/dev/null)}")
    local line
    for line in $out; do
        [[ $line == :* ]] && continue
        lines+=("${${line//:/\\:}/$'\t'/:}")
    done
    if (( ${#lines} )); then
        _describe 'PROG' lines
    else
        _files
    fi
}
compdef _PROG PROG
"#;

const FISH: &str = r#"# fish completion for PROG
function __PROG_complete
    set -l args (commandline -opc) (commandline -ct)
    $args[1] __complete $args[2..-1] 2>/dev/null | string match -v ':*'
end
complete -c PROG -f -a '(__PROG_complete)'
"#;

/// `completion bash|zsh|fish`
pub async fn completion(call: Call) -> Outcome {
    let script = match call.args()[0].as_str() {
        "bash" => BASH,
        "zsh" => ZSH,
        "fish" => FISH,
        other => {
            return Err(Failure::new(format!(
                "there is no completion for {other}: use bash, zsh or fish"
            )));
        }
    };
    say(script.replace("PROG", prog()))
}
