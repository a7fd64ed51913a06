"""Shell completion of subcommands, options and snapshot names, without starting Django.

The script that ``pgsnap completion`` prints sets ``PGSNAP_COMPLETION_DIR``. Where that is set, each
subcommand leaves the names of the project's snapshots there, in a file for the directory of its
``manage.py``; the script reads them from there.
"""

from __future__ import annotations

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

_BASH: Final = """
export {variable}="${{{variable}:-${{XDG_CACHE_HOME:-$HOME/.cache}}/django-pgsnap}}"
_pgsnap() {{
    local at=1 word=${{COMP_WORDS[COMP_CWORD]}} directory
    [[ ${{COMP_WORDS[0]}} == *python* ]] && at=2
    COMPREPLY=()
    if ((COMP_CWORD <= at)) || [[ ${{COMP_WORDS[at]}} != pgsnap ]]; then
        declare -F _django_completion > /dev/null && _django_completion
        ((COMP_CWORD == at)) && COMPREPLY+=($(compgen -W pgsnap -- "$word"))
        return
    fi
    if ((COMP_CWORD == at + 1)); then
        COMPREPLY=($(compgen -W "{verbs}" -- "$word"))
    elif [[ $word == -* ]]; then
        case ${{COMP_WORDS[at + 1]}} in
{options}
        esac
    else
        case ${{COMP_WORDS[at + 1]}} in
            {named})
                directory=$(cd "$(dirname -- "${{COMP_WORDS[at - 1]}}")" && pwd -P)
                COMPREPLY=($(compgen -W "$(cat "${variable}/${{directory//\\//%}}" 2> /dev/null)" \\
                    -- "$word")) ;;
        esac
    fi
}}
complete -o default -F _pgsnap manage.py django-admin python python3
"""
_BASH_OPTIONS: Final = '            {verb}) COMPREPLY=($(compgen -W "{options}" -- "$word")) ;;'

_ZSH: Final = """
export {variable}="${{{variable}:-${{XDG_CACHE_HOME:-$HOME/.cache}}/django-pgsnap}}"
_pgsnap() {{
    local at=2 directory file
    [[ $words[1] == *python* ]] && at=3
    if (( CURRENT <= at )) || [[ $words[at] != pgsnap ]]; then
        (( CURRENT == at )) && compadd -- pgsnap
        _files
        return
    fi
    if (( CURRENT == at + 1 )); then
        compadd -- {verbs}
    elif [[ $words[CURRENT] == -* ]]; then
        case $words[at+1] in
{options}
        esac
    else
        case $words[at+1] in
            {named})
                directory=${{${{words[at-1]}}:A:h}}
                file="${variable}/${{directory//\\//%}}"
                [[ -r $file ]] && compadd -- ${{(f)"$(<$file)"}} ;;
        esac
    fi
}}
compdef _pgsnap manage.py django-admin python python3
"""
_ZSH_OPTIONS: Final = "            {verb}) compadd -- {options} ;;"

_FISH: Final = """
set -q {variable}; or set -gx {variable} (set -q XDG_CACHE_HOME; \
and echo $XDG_CACHE_HOME; or echo $HOME/.cache)/django-pgsnap
function __pgsnap_names
    set -l script (string match -- '*manage.py' (commandline -opc))[1]
    set -l directory (realpath (dirname -- $script))
    cat ${variable}/(string replace -a / % $directory) 2>/dev/null
end
for command in manage.py django-admin python python3
    complete -c $command -n 'not __fish_seen_subcommand_from pgsnap' -a pgsnap
    complete -c $command -f -a '{verbs}' \
-n '__fish_seen_subcommand_from pgsnap; and not __fish_seen_subcommand_from {verbs}'
    complete -c $command -f -a '(__pgsnap_names)' \
-n '__fish_seen_subcommand_from pgsnap; and __fish_seen_subcommand_from {named_words}'
{options}
end
"""
_FISH_OPTION: Final = (
    "    complete -c $command -l {option} "
    "-n '__fish_seen_subcommand_from pgsnap; and __fish_seen_subcommand_from {verb}'"
)


def completion_script(shell: str) -> str:
    """Return the script that completes the command in a shell."""
    verbs = [word for name, each in SUBCOMMANDS.items() for word in (name, *each.aliases)]
    named = [
        word
        for name, each in SUBCOMMANDS.items()
        if any(argument.destination in _NAMES for argument in each.arguments)
        for word in (name, *each.aliases)
    ]
    template, line = {
        "bash": (_BASH, _BASH_OPTIONS),
        "zsh": (_ZSH, _ZSH_OPTIONS),
        "fish": (_FISH, _FISH_OPTION),
    }[shell]
    return template.format(
        variable=NAMES_DIRECTORY,
        verbs=" ".join(verbs),
        named="|".join(named),
        named_words=" ".join(named),
        options="\n".join(_option_lines(shell, line)),
    ).lstrip("\n")


def remember_names(directory: str) -> None:
    """Leave the names of the project's snapshots in a directory, for the shell's script."""
    # Whatever goes wrong here, the command has done its work.
    with suppress(PgsnapError, OSError), allow_here():
        names = [snapshot.name for snapshot in list_snapshots()]
        project = str(Path(sys.argv[0]).resolve().parent)
        file = Path(directory, project.replace("/", "%"))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(f"{name}\n" for name in names))


def _option_lines(shell: str, line: str) -> list[str]:
    lines = []
    for name, each in SUBCOMMANDS.items():
        flags = [flag for argument in each.arguments for flag in argument.flags]
        options = [flag for flag in (*flags, "--json", "--help") if flag.startswith("--")]
        if shell == "fish":
            lines += [line.format(verb=name, option=option[2:]) for option in options]
        else:
            verb = "|".join((name, *each.aliases))
            lines.append(line.format(verb=verb, options=" ".join(options)))
    return lines
