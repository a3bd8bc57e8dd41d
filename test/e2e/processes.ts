// Runs the compiled program in processes of its own and makes sure that none of them outlives its test.

import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

export const ENTRY = fileURLToPath(new URL('../../src/cli/main.js', import.meta.url))
export const LIMIT_MS = 20_000

/** A folder with a short path: those of sockets are limited. */
export function temporaryFolder(): string {
  return mkdtempSync(join(tmpdir(), 'cp-'))
}

export function removeFolder(path: string): void {
  rmSync(path, { recursive: true, force: true })
}

export interface Finished {
  readonly exitCode: number | null
  readonly stdout: string
  readonly stderr: string
}

export interface RunOptions {
  readonly cwd?: string
  readonly environment?: Record<string, string>
  readonly input?: string
  /** A program that executes the rest of the command line in its place. */
  readonly through?: readonly string[]
}

/** Runs a command to its end. */
export function coprime(args: readonly string[], options: RunOptions = {}): Promise<Finished> {
  const child = spawn(process.execPath, [ENTRY, ...args], {
    stdio: ['pipe', 'pipe', 'pipe'],
    cwd: options.cwd ?? process.cwd(),
    env: { ...process.env, ...options.environment },
  })
  child.stdin.end(options.input ?? '')
  const output = collect(child)
  return within(
    LIMIT_MS,
    `coprime ${args.join(' ')}`,
    new Promise((resolve) => child.on('close', (exitCode) => resolve({ exitCode, ...output() }))),
    () => child.kill('SIGKILL'),
  )
}

function collect(child: ChildProcess): () => { readonly stdout: string; readonly stderr: string } {
  let stdout = ''
  let stderr = ''
  child.stdout?.setEncoding('utf8').on('data', (text: string) => {
    stdout += text
  })
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    stderr += text
  })
  return () => ({ stdout, stderr })
}

/** A program that stays until it is told to end. */
export class LongRunning {
  readonly child: ChildProcess
  readonly ended: Promise<number | null>
  readonly #output: () => { readonly stdout: string; readonly stderr: string }
  readonly #name: string

  constructor(args: readonly string[], options: RunOptions = {}) {
    this.#name = `coprime ${args.join(' ')}`
    const [program = '', ...words] = [...(options.through ?? []), process.execPath, ENTRY, ...args]
    this.child = spawn(program, words, {
      stdio: ['ignore', 'pipe', 'pipe'],
      cwd: options.cwd ?? process.cwd(),
      env: { ...process.env, ...options.environment },
    })
    this.#output = collect(this.child)
    this.ended = new Promise((resolve) => this.child.on('close', (exitCode) => resolve(exitCode)))
  }

  get stderr(): string {
    return this.#output().stderr
  }

  /** The first line on standard output; rejects if the program ends without one. */
  firstLine(): Promise<string> {
    const line = new Promise<string>((resolve, reject) => {
      const look = (): void => {
        const [first, ...rest] = this.#output().stdout.split('\n')
        if (first !== undefined && rest.length > 0) resolve(first)
      }
      this.child.stdout?.on('data', look)
      look()
      void this.ended.then((exitCode) => reject(new Error(`${this.#name} ended (${exitCode}): ${this.stderr}`)))
    })
    return within(LIMIT_MS, `first line of ${this.#name}`, line, () => this.child.kill('SIGKILL'))
  }

  /** Ends it; the result is its exit code. */
  async end(signal: NodeJS.Signals = 'SIGTERM'): Promise<number | null> {
    this.child.kill(signal)
    return within(LIMIT_MS, `end of ${this.#name}`, this.ended, () => this.child.kill('SIGKILL'))
  }
}

/** Fails if the promise takes longer. */
export function within<T>(
  limitMs: number,
  what: string,
  promise: Promise<T>,
  onLate: () => void = () => {},
): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => {
      onLate()
      reject(new Error(`${what}: not within ${limitMs} ms`))
    }, limitMs)
  })
  return Promise.race([promise, late]).finally(() => clearTimeout(timer))
}

export function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    assert.equal((error as NodeJS.ErrnoException).code, 'ESRCH')
    return false
  }
}

/** For a process that is not ours: nothing tells when it ends, so this looks again and again, with a bound. */
export async function whenGone(pid: number): Promise<void> {
  const deadlineMs = performance.now() + LIMIT_MS
  while (isRunning(pid)) {
    assert.ok(performance.now() < deadlineMs, `process ${pid} is still there`)
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
}
