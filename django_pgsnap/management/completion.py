"""Shell completion of subcommands, options and snapshot names, without starting Django.

The script that ``pgsnap completion`` prints sets ``PGSNAP_COMPLETION_DIR``. Where that is set, each
subcommand leaves the names of the project's snapshots there, in a file for the directory of its
``manage.py``; the script reads them from there.
"""

import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from ..errors import PgsnapError
from ..safety import allow_here
from ..snapshots.queries import list_snapshots
from .arguments import SUBCOMMANDS

NAMES_DIRECTORY: Final = "PGSNAP_COMPLETION_DIR"
# Arguments whose values are names of snapshots.
_NAMES: Final = frozenset({"name", "names", "old", "other"})

_BASH: Final = r"""
export @variable@="${@variable@:-${XDG_CACHE_HOME:-$HOME/.cache}/django-pgsnap}"
_pgsnap() {
    local at=1 word=${COMP_WORDS[COMP_CWORD]} offered= directory
    [[ ${COMP_WORDS[0]} == *python* ]] && at=2
    COMPREPLY=()
    if ((COMP_CWORD <= at)) || [[ ${COMP_WORDS[at]} != pgsnap ]]; then
        type _django_completion > /dev/null 2>&1 && _django_completion
        ((COMP_CWORD == at)) && COMPREPLY+=($(compgen -W pgsnap -- "$word"))
        return
    fi
    if ((COMP_CWORD == at + 1)); then
        offered="@verbs@"
    else
        case ${COMP_WORDS[at + 1]}:$word in
@options@
            *:-*) ;;
            @named@)
                directory=$(cd "$(dirname -- "${COMP_WORDS[at - 1]}")" && pwd -P)
                offered=$(cat "$@variable@/${directory//\//%}" 2> /dev/null) ;;
        esac
    fi
    COMPREPLY=($(compgen -W "$offered" -- "$word"))
}
complete -o default -F _pgsnap manage.py django-admin python python3
"""

_FISH: Final = r"""
set -q @variable@; or set -gx @variable@ \
    (set -q XDG_CACHE_HOME; and echo $XDG_CACHE_HOME; or echo $HOME/.cache)/django-pgsnap
function __pgsnap_names
    set -l script (string match -- '*manage.py' (commandline -opc))[1]
    set -l directory (realpath (dirname -- $script))
    cat $@variable@/(string replace -a / % $directory) 2>/dev/null
end
for command in manage.py django-admin python python3
    complete -c $command -n 'not __fish_seen_subcommand_from pgsnap' -a pgsnap
    complete -c $command -f -a '@verbs@' \
        -n '__fish_seen_subcommand_from pgsnap; and not __fish_seen_subcommand_from @verbs@'
    complete -c $command -f -a '(__pgsnap_names)' \
        -n '__fish_seen_subcommand_from pgsnap; and __fish_seen_subcommand_from @named@'
@options@
end
"""
_FISH_OPTION: Final = (
    "    complete -c $command -l {option} "
    "-n '__fish_seen_subcommand_from pgsnap; and __fish_seen_subcommand_from {verb}'"
)


def completion_script(shell: str) -> str:
    verbs, named, options = [], [], []
    for name, each in SUBCOMMANDS.items():
        words = [name, *each.aliases]
        verbs += words
        if any(argument.destination in _NAMES for argument in each.arguments):
            named += words
        flags = [flag for argument in each.arguments for flag in argument.flags]
        flags = [flag for flag in (*flags, "--json", "--help") if flag.startswith("--")]
        if shell == "fish":
            options += [
                _FISH_OPTION.format(verb=" ".join(words), option=flag[2:]) for flag in flags
            ]
        else:
            cases = "|".join(f"{word}:-*" for word in words)
            options.append(f'            {cases}) offered="{" ".join(flags)}" ;;')
    script = _FISH if shell == "fish" else _BASH
    for placeholder, text in (
        ("variable", NAMES_DIRECTORY),
        ("verbs", " ".join(verbs)),
        ("named", " ".join(named) if shell == "fish" else "|".join(f"{word}:*" for word in named)),
        ("options", "\n".join(options)),
    ):
        script = script.replace(f"@{placeholder}@", text)
    # zsh has the completion of bash, too.
    return f"autoload -U bashcompinit && bashcompinit{script}" if shell == "zsh" else script[1:]


def remember_names(directory: str) -> None:
    """Leave the names of the project's snapshots in a directory, for the shell's script."""
    # Whatever goes wrong here, the command has done its work.
    with suppress(PgsnapError, OSError), allow_here():
        project = str(Path(sys.argv[0]).resolve().parent)
        file = Path(directory, project.replace("/", "%"))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(f"{snapshot.name}\n" for snapshot in list_snapshots()))
