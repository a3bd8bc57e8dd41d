// Other programs, for the demo and the bench: commands that end, and servers that are stopped by their process id however
// this process ends.

import { type ChildProcess, spawn } from 'node:child_process'
import { closeSync, existsSync, openSync, readFileSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { onProcessExit } from '../test/support/scratch.ts'

const COMMAND_TIMEOUT_MS = 120_000
const READY_TIMEOUT_MS = 20_000
const STOP_TIMEOUT_MS = 15_000
const POLL_MS = 20
const OUTPUT_TAIL_CHARACTERS = 2000

/** mkfs and its like stand outside the PATH of an ordinary user. */
export const PATH = [process.env['PATH'] ?? '', '/usr/sbin', '/sbin'].join(delimiter)
const environment = { ...process.env, PATH, LC_ALL: 'C' }

export class ProgramError extends Error {
  override readonly name = 'ProgramError'
}

export interface CommandResult {
  readonly status: number
  readonly stdout: string
  readonly stderr: string
}

/** Which of these programs are not installed. */
export function missingPrograms(names: readonly string[]): string[] {
  return names.filter((name) => !PATH.split(delimiter).some((folder) => existsSync(join(folder, name))))
}

/** Runs a program to its end and gives its exit status; one that dies of a signal or hangs is an error. */
export function runForStatus(command: string, args: readonly string[]): Promise<CommandResult> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, {
      env: environment,
      stdio: ['ignore', 'pipe', 'pipe'],
      timeout: COMMAND_TIMEOUT_MS,
      killSignal: 'SIGKILL',
    })
    const forget = onProcessExit(() => child.kill('SIGKILL'))
    let stdout = ''
    let stderr = ''
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      stdout += text
    })
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      stderr += text
    })
    child.on('error', reject)
    child.on('close', (status, signal) => {
      forget()
      if (status !== null) resolve({ status, stdout, stderr })
      else reject(new ProgramError(`${command} died of ${signal}\n${tail(stderr)}`))
    })
  })
}

/** Runs a program that must succeed. Gives its standard output. */
export async function run(command: string, args: readonly string[]): Promise<string> {
  const { status, stdout, stderr } = await runForStatus(command, args)
  if (status === 0) return stdout
  throw new ProgramError(`${command} ${args.join(' ')}: exit status ${status}\n${tail(`${stdout}\n${stderr}`)}`)
}

export interface ServerOptions {
  readonly command: string
  readonly args: readonly string[]
  /** Its standard output and standard error go there. */
  readonly outPath: string
  readonly errPath: string
  /** Outlives this process unless it is stopped: for --keep. */
  readonly detached?: boolean
}

/** A program that runs until it is stopped. */
export class Server {
  readonly #child: ChildProcess
  readonly #options: ServerOptions
  readonly #exited: Promise<void>
  readonly #forget: () => void

  constructor(options: ServerOptions) {
    this.#options = options
    const out = openSync(options.outPath, 'w')
    const err = openSync(options.errPath, 'w')
    try {
      this.#child = spawn(options.command, options.args, {
        env: environment,
        stdio: ['ignore', out, err],
        detached: options.detached ?? false,
      })
    } finally {
      closeSync(out)
      closeSync(err)
    }
    this.#exited = new Promise((resolve) => {
      this.#child.once('exit', () => resolve())
      this.#child.once('error', () => resolve()) // could not be started; `until` says so
    })
    this.#forget = onProcessExit(() => this.#child.kill('SIGTERM'))
  }

  get pid(): number {
    return this.#child.pid ?? 0
  }

  get isRunning(): boolean {
    return this.#child.pid !== undefined && this.#child.exitCode === null && this.#child.signalCode === null
  }

  /** Waits until `isReady` gives something. Fails when the server ends before that, or takes too long. */
  async until<T>(what: string, isReady: () => T | undefined): Promise<T> {
    const deadlineMs = performance.now() + READY_TIMEOUT_MS
    for (;;) {
      const ready = isReady()
      if (ready !== undefined) return ready
      if (!this.isRunning) throw this.#failure(`ended (status ${this.#child.exitCode}) before ${what}`)
      if (performance.now() > deadlineMs) throw this.#failure(`not within ${READY_TIMEOUT_MS} ms: ${what}`)
      await sleep(POLL_MS)
    }
  }

  async stop(): Promise<void> {
    if (this.isRunning) this.#child.kill('SIGTERM')
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), STOP_TIMEOUT_MS)
    await this.#exited
    clearTimeout(timer)
    this.#forget()
  }

  /** Lets it run on when this process ends. */
  leaveRunning(): void {
    this.#child.unref()
    this.#forget()
  }

  #failure(text: string): ProgramError {
    const said = `${readFileSync(this.#options.errPath, 'utf8')}\n${readFileSync(this.#options.outPath, 'utf8')}`
    return new ProgramError(`${this.#options.command} ${this.#options.args.join(' ')}: ${text}\n${tail(said)}`)
  }
}

const tail = (text: string): string => text.trim().slice(-OUTPUT_TAIL_CHARACTERS)
