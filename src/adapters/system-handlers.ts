// The Handlers port: runs the administrator's commands through `/bin/sh -c`, as drbdadm does (config-and-tools.md 1.8). They
// get the environment that DRBD's handlers get and nothing of the daemon's own.

import { type ChildProcess, spawn } from 'node:child_process'
import { constants } from 'node:os'

import type { Handlers } from '../runtime/ports.ts'

export interface SystemHandlersOptions {
  /** Command by handler name. */
  readonly commands: ReadonlyMap<string, string>
  /** A handler that runs longer is killed. Default five minutes. */
  readonly timeoutMs?: number
  /** One line that a handler wrote, or what became of it. */
  readonly log: (name: string, line: string) => void
}

/** Nothing is configured under that name: as if it had run and succeeded. */
export const EXIT_NO_HANDLER = 0
/** As timeout(1) says it. */
export const EXIT_TIMED_OUT = 124
/** /bin/sh itself could not be started: as a shell says of a command. */
export const EXIT_NOT_STARTED = 127
/** Added to the signal's number, as a shell does. */
const EXIT_SIGNAL = 128

const TIMEOUT_MS_DEFAULT = 300_000
/** From SIGTERM to SIGKILL. */
const GRACE_MS = 2_000
/** For the last output, if the handler has left something running that keeps the pipe open. */
const OUTPUT_MS = 200
const LINE_CHARACTERS_MAX = 2_000

const BASE_ENVIRONMENT = { HOME: '/', TERM: 'linux', PATH: '/sbin:/usr/sbin:/bin:/usr/bin' }

export class SystemHandlers implements Handlers {
  readonly #options: SystemHandlersOptions

  constructor(options: SystemHandlersOptions) {
    this.#options = options
  }

  run(name: string, environment: ReadonlyMap<string, string>, done: (exitCode: number) => void): void {
    const command = this.#options.commands.get(name)
    if (command === undefined) {
      setImmediate(() => done(EXIT_NO_HANDLER))
      return
    }
    const log = (line: string): void => this.#options.log(name, line)
    new HandlerRun(command, environment, log, done).start(this.#options.timeoutMs ?? TIMEOUT_MS_DEFAULT)
  }
}

class HandlerRun {
  readonly #child: ChildProcess
  readonly #log: (line: string) => void
  readonly #done: (exitCode: number) => void
  readonly #output: LineSplitter[]
  #exitCode: number | undefined
  #timedOut = false
  #timer: NodeJS.Timeout | undefined
  #over = false

  constructor(
    command: string,
    environment: ReadonlyMap<string, string>,
    log: (line: string) => void,
    done: (exitCode: number) => void,
  ) {
    this.#log = log
    this.#done = done
    this.#output = [new LineSplitter(log), new LineSplitter(log)]
    this.#child = spawn('/bin/sh', ['-c', command], {
      cwd: '/',
      env: { ...BASE_ENVIRONMENT, ...Object.fromEntries(environment) },
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true, // a process group of its own, so that a time-out ends its children too
    })
  }

  start(timeoutMs: number): void {
    const child = this.#child
    child.stdout?.setEncoding('utf8').on('data', (text: string) => this.#output[0]?.add(text))
    child.stderr?.setEncoding('utf8').on('data', (text: string) => this.#output[1]?.add(text))
    child.on('error', (error) => {
      this.#log(`cannot be started: ${error.message}`)
      this.#exitCode = EXIT_NOT_STARTED
      this.#finish()
    })
    child.on('exit', (code, signal) => {
      this.#exitCode = code ?? EXIT_SIGNAL + signalNumber(signal)
      clearTimeout(this.#timer)
      this.#timer = setTimeout(() => this.#finish(), OUTPUT_MS)
    })
    child.on('close', () => this.#finish())
    this.#timer = setTimeout(() => this.#timeOut(timeoutMs), timeoutMs)
  }

  #timeOut(timeoutMs: number): void {
    this.#timedOut = true
    this.#log(`killed: it ran longer than ${timeoutMs} ms`)
    this.#kill('SIGTERM')
    this.#timer = setTimeout(() => this.#kill('SIGKILL'), GRACE_MS)
  }

  #kill(signal: NodeJS.Signals): void {
    const pid = this.#child.pid
    if (pid === undefined) return
    try {
      process.kill(-pid, signal)
    } catch (error) {
      this.#log(`cannot be killed: ${String(error)}`)
    }
  }

  #finish(): void {
    if (this.#over) return
    this.#over = true
    clearTimeout(this.#timer)
    this.#child.stdout?.destroy()
    this.#child.stderr?.destroy()
    for (const output of this.#output) output.end()
    this.#done(this.#timedOut ? EXIT_TIMED_OUT : (this.#exitCode ?? EXIT_NOT_STARTED))
  }
}

/** Hands over whole lines; a line without end is cut. */
class LineSplitter {
  readonly #log: (line: string) => void
  #rest = ''

  constructor(log: (line: string) => void) {
    this.#log = log
  }

  add(text: string): void {
    const lines = (this.#rest + text).split('\n')
    this.#rest = lines.pop() ?? ''
    for (const line of lines) this.#log(line.slice(0, LINE_CHARACTERS_MAX))
    while (this.#rest.length > LINE_CHARACTERS_MAX) {
      this.#log(this.#rest.slice(0, LINE_CHARACTERS_MAX))
      this.#rest = this.#rest.slice(LINE_CHARACTERS_MAX)
    }
  }

  end(): void {
    if (this.#rest !== '') this.#log(this.#rest)
    this.#rest = ''
  }
}

const signalNumber = (signal: NodeJS.Signals | null): number => (signal === null ? 0 : constants.signals[signal])
