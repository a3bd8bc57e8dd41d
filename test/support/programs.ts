// Other people's programs: whether they are here, and running one with a bound on its time and output.

import { spawn } from 'node:child_process'
import { accessSync, constants } from 'node:fs'
import { delimiter, join } from 'node:path'

export interface Finished {
  /** The exit code, or 128 and the signal's number as a shell has it. */
  readonly code: number
  readonly stdout: string
  readonly stderr: string
}

export interface RunOptions {
  readonly timeoutMs?: number
  readonly cwd?: string
  readonly input?: string | Uint8Array
}

const TIMEOUT_MS = 30_000
const OUTPUT_BYTES_MAX = 16 * 1024 * 1024
const EXIT_KILLED = 137
/** Debian's administrator tools are not on everybody's path. */
const FOLDERS = [...(process.env['PATH'] ?? '').split(delimiter), '/usr/local/sbin', '/usr/sbin', '/sbin']

export function findProgram(name: string): string | undefined {
  for (const folder of FOLDERS) {
    if (folder === '') continue
    const path = join(folder, name)
    try {
      accessSync(path, constants.X_OK)
      return path
    } catch {
      // Not in this folder.
    }
  }
  return undefined
}

/** False if all are here; else the reason to skip a test. */
export function missingPrograms(...names: string[]): string | false {
  const missing = names.filter((name) => findProgram(name) === undefined)
  return missing.length === 0 ? false : `not installed here: ${missing.join(', ')}`
}

/** Never rejects for an exit code; rejects if the program cannot be started or does not end in time (it is killed then). */
export function runProgram(name: string, words: readonly string[], options: RunOptions = {}): Promise<Finished> {
  const path = findProgram(name) ?? name
  const timeoutMs = options.timeoutMs ?? TIMEOUT_MS
  return new Promise((resolve, reject) => {
    const child = spawn(path, words, { stdio: ['pipe', 'pipe', 'pipe'], cwd: options.cwd })
    const output = { stdout: '', stderr: '' }
    for (const stream of ['stdout', 'stderr'] as const) {
      child[stream].setEncoding('utf8').on('data', (text: string) => {
        if (output[stream].length < OUTPUT_BYTES_MAX) output[stream] += text
      })
    }
    const timer = setTimeout(() => {
      child.kill('SIGKILL')
      reject(new Error(`${name} ${words.join(' ')}: not done within ${timeoutMs} ms\n${output.stdout}${output.stderr}`))
    }, timeoutMs)
    child.once('error', (error) => {
      clearTimeout(timer)
      reject(error)
    })
    child.once('close', (code) => {
      clearTimeout(timer)
      resolve({ code: code ?? EXIT_KILLED, ...output })
    })
    child.stdin.on('error', () => {}) // a program that does not read its input
    child.stdin.end(options.input)
  })
}

/** Rejects, with all that the program said, unless it exits with 0. */
export async function mustRun(name: string, words: readonly string[], options: RunOptions = {}): Promise<Finished> {
  const finished = await runProgram(name, words, options)
  if (finished.code === 0) return finished
  throw new Error(`${name} ${words.join(' ')}: exit code ${finished.code}\n${finished.stdout}${finished.stderr}`)
}
