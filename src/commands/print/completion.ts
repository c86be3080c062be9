/**
 * `sluice completion`: a script that completes commands and options in a shell, made of the table of commands. Pure.
 */
import { SluiceError } from '../../errors.ts'

/** As much of a command as a shell needs. */
export interface Completed {
  readonly name: string
  readonly summary: string
  readonly options: readonly {
    readonly name: string
    readonly help: string
    readonly value: boolean
  }[]
  /** Words of a fixed choice: "show", "set". */
  readonly verbs: readonly string[]
}

/** Throws USAGE for a shell that is not known. */
export function completion(shell: string, commands: readonly Completed[]): string {
  const script = shells[shell]
  if (script) return script(commands)
  throw new SluiceError('USAGE', `expected ${Object.keys(shells).join(', ')}, found "${shell}"`)
}

const flagsOf = ({ options }: Completed): string[] => options.map(({ name }) => `--${name}`)

const shells: Readonly<Record<string, (commands: readonly Completed[]) => string>> = {
  bash: (
    commands,
  ) => `# sluice: completion for bash, e.g. in ~/.bashrc: eval "$(sluice completion bash)"
_sluice() {
  local word="\${COMP_WORDS[COMP_CWORD]}" words
  if [ "$COMP_CWORD" -eq 1 ]; then
    words='${commands.map((c) => c.name).join(' ')}'
  else
    case "\${COMP_WORDS[1]}" in
${commands.map((c) => `      ${c.name}) words='${[...c.verbs, ...flagsOf(c)].join(' ')}' ;;`).join('\n')}
      *) words='' ;;
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
  [ \${#COMPREPLY[@]} -gt 0 ] || COMPREPLY=($(compgen -f -- "$word"))
}
complete -F _sluice sluice
`,
  zsh: (commands) => `#compdef sluice
# sluice: completion for zsh, e.g. in ~/.zshrc after compinit: eval "$(sluice completion zsh)"
_sluice() {
  local -a words
  if (( CURRENT == 2 )); then
    words=(${commands.map((c) => `'${c.name}:${quoted(c.summary)}'`).join(' ')})
    _describe 'command' words
    return
  fi
  case "$words[2]" in
${commands.map((c) => `    ${c.name}) compadd -- ${[...c.verbs, ...flagsOf(c)].join(' ')}; _files ;;`).join('\n')}
  esac
}
compdef _sluice sluice
`,
  fish: (
    commands,
  ) => `# sluice: completion for fish, e.g. sluice completion fish > ~/.config/fish/completions/sluice.fish
${commands
  .flatMap((c) => [
    `complete -c sluice -n __fish_use_subcommand -a ${c.name} -d '${quoted(c.summary)}'`,
    ...c.verbs.map(
      (verb) => `complete -c sluice -n '__fish_seen_subcommand_from ${c.name}' -a ${verb}`,
    ),
    ...c.options.map(
      ({ name, help, value }) =>
        `complete -c sluice -n '__fish_seen_subcommand_from ${c.name}' -l ${name}${value ? ' -r' : ''} -d '${quoted(help)}'`,
    ),
  ])
  .join('\n')}
`,
}
/** Inside single quotes of any of the three; a colon ends a word of zsh's list. */
const quoted = (text: string): string => text.replaceAll("'", '’').replaceAll(':', ' -')
