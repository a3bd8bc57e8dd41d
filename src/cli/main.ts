#!/usr/bin/env node
// The `coprime` program: reads the command line and hands over to one file per command, which is loaded only when it is
// needed. Names, objects and exit codes are drbdadm's (config-and-tools.md 2 and 4).

import { Command, CommanderError, InvalidArgumentError, Option } from 'commander'

import type { CommandName } from '../control/api.ts'
import { programVersion } from '../control/version.ts'
import { PACKET_KINDS } from '../runtime/packet-lines.ts'
import {
  type Context,
  createContext,
  EXIT_OK,
  EXIT_USAGE,
  endOnBrokenPipe,
  type GlobalOptions,
  reportError,
} from './context.ts'
import type { LabAction, LabCommandOptions } from './lab.ts'

/** As a shell says of a mistake of ours. */
const EXIT_INTERNAL = 70

type Run = (context: Context) => Promise<number>

interface StateCommand {
  readonly name: CommandName
  readonly description: string
  readonly options: readonly (readonly [flags: string, description: string])[]
}

const FORCE_PRIMARY = 'make the local data UpToDate, whatever they are'
const STATE_COMMANDS: readonly StateCommand[] = [
  { name: 'up', description: 'attach the disks and connect to the peer', options: [] },
  { name: 'down', description: 'disconnect and detach; the opposite of up', options: [] },
  { name: 'attach', description: 'open the disks', options: [] },
  { name: 'detach', description: 'close the disks', options: [['--force', 'do not wait for I/O']] },
  {
    name: 'connect',
    description: 'connect to the peer',
    options: [['--discard-my-data', 'give up the local changes of a split brain']],
  },
  { name: 'disconnect', description: 'part from the peer', options: [['--force', 'without asking it']] },
  {
    name: 'primary',
    description: 'export the data on this host',
    options: [
      ['--force', FORCE_PRIMARY],
      ['--overwrite-data-of-peer', `as --force: ${FORCE_PRIMARY}`],
    ],
  },
  { name: 'secondary', description: 'end the export', options: [['--force', 'disconnect NBD clients']] },
  { name: 'invalidate', description: 'take all data from the peer anew', options: [] },
  { name: 'invalidate-remote', description: 'give all data to the peer anew', options: [] },
  {
    name: 'new-current-uuid',
    description: 'begin a new data generation',
    options: [['--clear-bitmap', 'the disks are equal: nothing is out of sync']],
  },
  {
    name: 'verify',
    description: 'compare the disks of both hosts while they are in use',
    options: [
      ['--start <sector>', 'first sector, of 512 bytes'],
      ['--stop <sector>', 'sector to stop at'],
    ],
  },
  {
    name: 'resize',
    description: 'make the device as large as both disks allow',
    options: [
      ['--size <size>', 'not larger than this, in KiB or with a unit: s, K, M, G, T'],
      ['--assume-clean', 'the new space holds the same on both disks'],
    ],
  },
  { name: 'pause-sync', description: 'let a resync rest', options: [] },
  { name: 'resume-sync', description: 'let it go on', options: [] },
  { name: 'outdate', description: 'mark the local data as outdated', options: [] },
  { name: 'resume-io', description: 'let frozen I/O go on', options: [] },
]

async function main(argv: readonly string[]): Promise<number> {
  endOnBrokenPipe()
  let run: Run | undefined
  const program = buildProgram((chosen) => {
    run = chosen
  })
  try {
    await program.parseAsync(backendOptionsLast(argv), { from: 'user' })
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error
    return error.exitCode === 0 ? EXIT_OK : EXIT_USAGE
  }
  if (run === undefined) return EXIT_USAGE
  const context = createContext(program.opts<GlobalOptions>())
  try {
    return await run(context)
  } catch (error) {
    return reportError(error, context)
  }
}

/** `coprime -- --discard-my-data connect r0`: drbdadm takes options of the back end also first, after a bare `--`. */
function backendOptionsLast(argv: readonly string[]): string[] {
  const at = argv.indexOf('--')
  if (at < 0) return [...argv]
  const rest = argv.slice(at + 1)
  const first = rest.findIndex((word) => !word.startsWith('-'))
  if (first <= 0) return [...argv.slice(0, at), ...rest]
  return [...argv.slice(0, at), ...rest.slice(first), ...rest.slice(0, first)]
}

type Choose = (run: Run) => void

function buildProgram(choose: Choose): Command {
  const program = new Command('coprime')
    .description('One disk, two hosts, both may write: replicated block storage in user space')
    .version(programVersion(), '-V, --version')
    .option('-c, --config-file <file>', 'configuration, - for standard input (default: /etc/drbd.conf)')
    .option('--control <socket>', "the daemon's control socket (default: below the runtime directory)")
    .option('--runtime-dir <dir>', 'folder of sockets (default: /run/coprime)')
    .option('--node <name>', 'act as this host of the configuration (default: uname -n)')
    .option('--json', 'print JSON')
    .exitOverride()
    .showHelpAfterError('(`coprime help` lists the commands)')
  addStateCommands(program, choose)
  addQueries(program, choose)
  addTrace(program, choose)
  addOffline(program, choose)
  addDaemon(program, choose)
  addLab(program, choose)
  return program
}

const OBJECTS = '<objects...>'
const OBJECTS_HELP = 'all, RESOURCE or RESOURCE/VNR'

function addStateCommands(program: Command, choose: Choose): void {
  for (const { name, description, options } of STATE_COMMANDS) {
    const command = program.command(name).description(description).argument(OBJECTS, OBJECTS_HELP)
    for (const [flags, help] of options) command.option(flags, help)
    command.action((objects: string[], given: object) =>
      choose(async (context) => {
        const { runStateCommand } = await import('./state-commands.ts')
        return runStateCommand(context, name, objects, given)
      }),
    )
  }
}

function addQueries(program: Command, choose: Choose): void {
  program
    .command('status')
    .description('state of what is up')
    .argument('[resources...]', 'default: all')
    .option('-v, --verbose', 'also what is as it should be')
    .option('-s, --statistics', 'also counters')
    .action((names: string[], given: object) =>
      choose(async (context) => {
        const { runStatus } = await import('./status.ts')
        return runStatus(context, names, given)
      }),
    )
  for (const [word, description] of [
    ['role', 'roles of this host and the peer'],
    ['cstate', 'state of the connection'],
    ['dstate', 'states of the disks, here and there'],
  ] as const) {
    program
      .command(word)
      .description(description)
      .argument(OBJECTS, OBJECTS_HELP)
      .action((objects: string[]) =>
        choose(async (context) => {
          const { runStateWord } = await import('./state-words.ts')
          return runStateWord(context, word, objects)
        }),
      )
  }
  for (const [what, description] of [
    ['connect', 'wait until the hosts are connected'],
    ['sync', 'wait until no resync runs any more'],
  ] as const) {
    program
      .command(`wait-${what}`)
      .description(description)
      .argument(OBJECTS, OBJECTS_HELP)
      .addOption(
        new Option('-t, --wfc-timeout <seconds>', 'wait at most this long, 0 for ever').argParser(seconds).default('0'),
      )
      .option('--wait-after-sb', 'go on waiting when split brain has ended the connection')
      .action((objects: string[], given: object) =>
        choose(async (context) => {
          const { runWait } = await import('./wait.ts')
          return runWait(context, what, objects, given)
        }),
      )
  }
}

function addTrace(program: Command, choose: Choose): void {
  program
    .command('trace')
    .description('packets between the two hosts, as they pass')
    .argument('<resource>')
    .option('-k, --kind <kinds...>', `only these: ${PACKET_KINDS.join(', ')} (default: all but ping)`)
    .addOption(new Option('-n, --count <packets>', 'end after so many').argParser(count))
    .addOption(new Option('-s, --seconds <seconds>', 'end after so long').argParser(seconds))
    .option('--totals', 'not each packet, but at the end how many of each, and how long answers took')
    .action((name: string, given: object) =>
      choose(async (context) => {
        const { runTrace } = await import('./trace.ts')
        return runTrace(context, name, given)
      }),
    )
}

function count(text: string): string {
  if (!/^[1-9][0-9]{0,8}$/.test(text)) throw new InvalidArgumentError('It is no number of packets.')
  return text
}

function seconds(text: string): string {
  if (!/^[0-9]{1,6}(\.[0-9]{1,3})?$/.test(text)) {
    throw new InvalidArgumentError('It is no number of seconds.')
  }
  return text
}

function addOffline(program: Command, choose: Choose): void {
  program
    .command('dump')
    .description('print the configuration as it is understood')
    .argument('[resources...]', 'default: all')
    .action((names: string[]) =>
      choose(async (context) => {
        const { runDump } = await import('./dump.ts')
        return runDump(context, names)
      }),
    )
  program
    .command('create-md')
    .description('write fresh metadata; what the disk knew of its peer is lost')
    .argument(OBJECTS, OBJECTS_HELP)
    .option('--force', 'do not ask')
    .action((objects: string[], given: object) =>
      choose(async (context) => {
        const { runCreateMd } = await import('./create-md.ts')
        return runCreateMd(context, objects, given)
      }),
    )
  for (const [name, drawn] of [
    ['get-gi', false],
    ['show-gi', true],
  ] as const) {
    program
      .command(name)
      .description(`generation identifiers in the metadata${drawn ? ', explained' : ''}`)
      .argument(OBJECTS, OBJECTS_HELP)
      .action((objects: string[]) =>
        choose(async (context) => {
          const { runGi } = await import('./gi.ts')
          return runGi(context, objects, drawn)
        }),
      )
  }
}

function addDaemon(program: Command, choose: Choose): void {
  program
    .command('daemon')
    .description('run the resources of this host')
    .option('--up', 'bring all resources up')
    .option('--dashboard <host:port>', "page, /status and /metrics (default: 127.0.0.1:9942 if free; 'none')")
    .option('--log-level <level>', 'fatal, error, warn, info, debug', 'info')
    .option('--log-file <file>', 'instead of standard error')
    .addOption(new Option('--lab-link', 'the network may be cut and slowed down').hideHelp())
    .addOption(new Option('--until-stdin-ends', 'end with the process at the other end').hideHelp())
    .action((given: { logLevel: string }) =>
      choose(async (context) => {
        const { runDaemonCommand } = await import('./daemon.ts')
        return runDaemonCommand(context, given)
      }),
    )
}

function addLab(program: Command, choose: Choose): void {
  const lab = program
    .command('lab')
    .description('two hosts on this machine, to try things out')
    .option('--dir <dir>', 'folder of disks, configuration and logs', '.coprime/lab')
    .option('--size <size>', 'what clients see (default: 64M)')
    .option('--order <order>', 'arbitration, coordinator, lock-extents, auto', 'arbitration')
    .option('--write-now-acks', 'with a coordinator: its P_WRITE_NOW comes after its disk, and is its acknowledgement')
    .option('--protocol <protocol>', 'A, B or C; two Primaries need C', 'C')
    .option('--link-delay-ms <ms>', 'how long a byte takes from host to host', '0')
    .option('--restart', 'start a daemon again a second after it was killed')
    .option('--log-level <level>', 'of the daemons', 'info')
  lab.action((given: LabCommandOptions) =>
    choose(async (context) => {
      const { runLab } = await import('./lab.ts')
      return runLab(context, given)
    }),
  )
  const add = (action: LabAction, description: string, argument?: string): void => {
    const command = lab.command(action).description(description)
    if (argument !== undefined) command.argument(argument)
    command.action((value: string | object) =>
      choose(async (context) => {
        const { runLabAction } = await import('./lab.ts')
        return runLabAction(context, action, lab.opts<{ dir: string }>(), typeof value === 'string' ? value : undefined)
      }),
    )
  }
  add('kill', 'kill -9 a side', '<side>')
  add('restart', 'start a side, killing it first if it runs', '<side>')
  add('cut', 'cut the network between the two')
  add('heal', 'join it again')
  add('delay', 'slow it down, one way', '<ms>')
  add('status', 'how the two are')
  add('stop', 'end the lab')
}

main(process.argv.slice(2)).then(
  (exitCode) => {
    process.exitCode = exitCode
  },
  (error: unknown) => {
    process.stderr.write(`coprime: internal error: ${error instanceof Error ? error.stack : String(error)}\n`)
    process.exitCode = EXIT_INTERNAL
  },
)
