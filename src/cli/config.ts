import type { Command } from 'commander'
import { printable } from '../config.ts'
import { say } from './say.ts'

export function configVerbs(program: Command): void {
  const config = program
    .command('config')
    .description('the settings that this environment gives')
    .addHelpText('before', 'Example:\n  $ npm run stampede -- config print\n')
  config
    .command('print')
    .description('every setting, its value, and what it is for; secrets are not shown')
    .addHelpText('before', 'Example:\n  $ npm run stampede -- config print\n')
    .action((_: unknown, command: Command) => {
      const settings = printable()
      const lines = settings.map(
        ({ name, value, from, about, wrong }) =>
          `${name.padEnd(20)} ${value ?? '-'} (${from})${wrong ? `  WRONG: ${wrong}` : ''}\n  ${about}`,
      )
      if (settings.some(({ wrong }) => wrong)) process.exitCode = 78
      say(command, lines.join('\n'), { settings })
    })
}
