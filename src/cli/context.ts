// What every command has in common: the options of the program, what it prints, and how errors end it. Output goes to
// standard output, everything else to standard error; a command returns its exit code.

import { AppError } from '../base/errors.ts'
import { ControlClient } from '../control/client.ts'
import { controlSocketPath } from '../control/paths.ts'

export interface GlobalOptions {
  readonly configFile?: string
  readonly control?: string
  readonly runtimeDir?: string
  readonly node?: string
  readonly json?: boolean
}

export interface Context {
  readonly options: GlobalOptions
  readonly client: ControlClient
  readonly json: boolean
  print(text: string): void
  printError(text: string): void
}

export const EXIT_OK = 0
export const EXIT_WAIT_TIMEOUT = 5
export const EXIT_CONFIG = 10
export const EXIT_USAGE = 20
/** As a shell says of a program that SIGPIPE has ended. */
const EXIT_PIPE = 141

export function createContext(options: GlobalOptions): Context {
  return {
    options,
    client: new ControlClient(controlSocketPath(options)),
    json: options.json ?? false,
    print: (text) => process.stdout.write(`${text}\n`),
    printError: (text) => process.stderr.write(`${text}\n`),
  }
}

/** `uname -n`, or what stands for it; DRBD's own variable works, too. */
export function nodeName(options: GlobalOptions, environment: NodeJS.ProcessEnv = process.env): string | undefined {
  const name = options.node ?? environment['COPRIME_NODE'] ?? environment['__DRBD_NODE__']
  return name === '' ? undefined : name
}

/** Someone reads no more of our output (`coprime status | head`). */
export function endOnBrokenPipe(): void {
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit(EXIT_PIPE)
    throw error
  })
}

/** One error of the world outside as text, and its exit code. Anything else is a mistake of ours and goes on. */
export function reportError(error: unknown, context: Pick<Context, 'json' | 'print' | 'printError'>): number {
  if (!(error instanceof AppError)) throw error
  const exitCode = 'exitCode' in error && typeof error.exitCode === 'number' ? error.exitCode : EXIT_USAGE
  if (context.json)
    context.print(JSON.stringify({ error: error.code, message: error.message, hint: error.hint, exitCode }))
  const rendered = 'rendered' in error && typeof error.rendered === 'string' ? error.rendered : undefined
  context.printError(rendered ?? [error.message, error.hint].filter((part) => part !== '').join('. '))
  return exitCode
}
