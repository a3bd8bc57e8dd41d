// The lab (`coprime lab`): two real daemons on this machine, in a folder of their own that goes away with the test, however
// the test ends. States are awaited through the daemons' event streams, with bounds.

import { type ChildProcess, spawn } from 'node:child_process'
import { join } from 'node:path'
import { createInterface, type Interface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { connectNbd, type NbdConnectionToServer } from '../../src/adapters/nbd-client.ts'
import { defined } from '../../src/base/assert.ts'
import type { HostReport, ResourceReport, VolumeReport } from '../../src/control/api.ts'
import { ControlClient } from '../../src/control/client.ts'
import { within } from './bounded.ts'
import { type DiskPair, SIDES, type Side } from './disk-pair.ts'
import { type Finished, runProgram } from './programs.ts'
import { onProcessExit, scratchFolder } from './scratch.ts'

/** The compiled command that stands beside this compiled file. */
export const COPRIME_MAIN = fileURLToPath(new URL('../../src/cli/main.js', import.meta.url))

export interface LabOptions {
  /** As for `--size`. */
  readonly size?: string
  readonly order?: 'arbitration' | 'coordinator' | 'lock-extents' | 'auto'
  readonly protocol?: 'A' | 'B' | 'C'
  readonly linkDelayMs?: number
  readonly restart?: boolean
}

/** What the lab says of one side. */
export interface LabSide {
  /** nbd+unix:///r0?socket=... */
  readonly nbd: string
  readonly pid: number
  readonly disk: string
  readonly control: string
}

interface LabReady {
  readonly a: LabSide
  readonly b: LabSide
  readonly link: string
  readonly dashboard: string
}

const READY_MS = 30_000
const STOP_MS = 15_000
const COMMAND_MS = 30_000
const STATE_MS = 30_000
const LOG_LINES_MAX = 4_000
const RETRY_MS = 20

/** Ready when it resolves: both exports served, both sides Primary and UpToDate. */
export async function startLab(options: LabOptions = {}): Promise<Lab> {
  const lab = new Lab(options)
  try {
    await lab.boot()
    return lab
  } catch (error) {
    await lab.stop()
    throw new Error(`the lab did not start; its last lines:\n${lab.lastLines(40)}`, { cause: error })
  }
}

export class Lab implements DiskPair {
  readonly folder = scratchFolder('coprime-lab-')
  /** The last lines that the lab and its daemons wrote. */
  readonly log: string[] = []
  readonly #process: ChildProcess
  readonly #lines: Interface[] = []
  readonly #exited: Promise<void>
  readonly #forget: () => void
  /** Of every daemon that was ever seen, so that none outlives the test. */
  readonly #pids = new Set<number>()
  #ready: LabReady | undefined
  #sizeBytes = 0
  #hasExited = false
  #onFirstLine: (line: string) => void = () => {}
  #onLine: ((line: string) => void)[] = []

  constructor(options: LabOptions) {
    const words = ['lab', '--json', '--dir', this.folder.path, ...argumentsOf(options)]
    this.#process = spawn(process.execPath, ['--enable-source-maps', COPRIME_MAIN, ...words], {
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    this.#exited = new Promise((resolve) => {
      this.#process.once('exit', (code, signal) => {
        this.#hasExited = true
        this.#note(`lab ended with ${signal ?? code}`)
        resolve()
      })
      this.#process.once('error', (error) => {
        this.#hasExited = true
        this.#note(`lab: ${error.message}`)
        resolve()
      })
    })
    let first = true
    for (const stream of [this.#process.stdout, this.#process.stderr]) {
      if (stream === null) continue
      const lines = createInterface({ input: stream })
      lines.on('line', (line) => {
        this.#note(line)
        if (first && stream === this.#process.stdout) {
          first = false
          this.#onFirstLine(line)
        }
      })
      this.#lines.push(lines)
    }
    this.#forget = onProcessExit(() => this.#killAll())
  }

  async boot(): Promise<void> {
    const line = new Promise<string>((resolve) => {
      this.#onFirstLine = resolve
    })
    const ended = this.#exited.then(() => Promise.reject(new Error('the lab ended before it was ready')))
    ended.catch(() => {})
    const text = await within(READY_MS, 'the first line of the lab', Promise.race([line, ended]))
    this.#ready = JSON.parse(text) as LabReady
    for (const side of SIDES) this.#pids.add(this.#ready[side].pid)
    await this.untilReady()
    const connection = await this.connect('a')
    this.#sizeBytes = connection.sizeBytes
    await connection.disconnect()
  }

  side(side: Side): LabSide {
    return defined(this.#ready, 'first line of the lab')[side]
  }

  get dashboard(): string {
    return defined(this.#ready, 'first line of the lab').dashboard
  }

  get sizeBytes(): number {
    return this.#sizeBytes
  }

  diskPath(side: Side): string {
    return this.side(side).disk
  }

  uri(side: Side): string {
    return this.side(side).nbd
  }

  /** Of the unix socket in the URI. */
  nbdSocket(side: Side): string {
    return defined(new URL(this.uri(side)).searchParams.get('socket'), 'socket in the NBD URI')
  }

  connect(side: Side): Promise<NbdConnectionToServer> {
    return connectNbd({ socketPath: this.nbdSocket(side), exportName: new URL(this.uri(side)).pathname.slice(1) })
  }

  control(side: Side): ControlClient {
    return new ControlClient(this.side(side).control)
  }

  async host(side: Side): Promise<HostReport> {
    const report = await within(STATE_MS, `status of ${side}`, this.control(side).status())
    this.#pids.add(report.pid)
    return report
  }

  async resource(side: Side): Promise<ResourceReport> {
    return defined((await this.host(side)).resources[0], `resource on ${side}`)
  }

  async volume(side: Side): Promise<VolumeReport> {
    return defined((await this.resource(side)).volumes[0], `volume on ${side}`)
  }

  /** `coprime lab WORDS... --dir DIR`; rejects unless it succeeds. */
  async command(...words: string[]): Promise<Finished> {
    const all = ['--enable-source-maps', COPRIME_MAIN, 'lab', ...words, '--dir', this.folder.path]
    const finished = await runProgram(process.execPath, all, { timeoutMs: COMMAND_MS })
    if (finished.code === 0) return finished
    throw new Error(`coprime lab ${words.join(' ')}: exit code ${finished.code}\n${finished.stdout}${finished.stderr}`)
  }

  /** SIGKILL, now. Resolves when the process is gone. */
  async kill(side: Side): Promise<void> {
    const { pid } = await this.host(side)
    await killAndWait(pid)
  }

  async restart(side: Side): Promise<void> {
    await this.command('restart', side)
    await this.#reachable(side)
    await this.host(side)
  }

  /** What the lab's network does, set in both daemons. */
  async link(change: { readonly cut?: boolean; readonly delayMs?: number }): Promise<void> {
    await Promise.all(SIDES.map((side) => this.control(side).link(change)))
  }

  /** Connected, both Primary, both UpToDate, nothing out of sync, as both sides see it. */
  async untilReady(timeoutMs = STATE_MS): Promise<void> {
    for (const side of SIDES) await this.until(side, isReady, 'ready', timeoutMs)
  }

  /** Waits until `holds` of the resource as that side reports it. */
  async until(
    side: Side,
    holds: (resource: ResourceReport) => boolean,
    what: string,
    timeoutMs = STATE_MS,
  ): Promise<void> {
    await this.#reachable(side)
    let last: ResourceReport | undefined
    const reached = await this.control(side).waitFor((resources) => {
      ;[last] = resources.values()
      return last !== undefined && holds(last)
    }, timeoutMs)
    if (reached) return
    throw new Error(`${side} is not ${what} within ${timeoutMs} ms: ${describe(last)}\n${this.lastLines(60)}`)
  }

  /** Waits for a line of the log that comes from now on, or has come. */
  untilLogged(pattern: RegExp, timeoutMs: number): Promise<string> {
    const there = this.log.find((line) => pattern.test(line))
    if (there !== undefined) return Promise.resolve(there)
    let listener: ((line: string) => void) | undefined
    const come = new Promise<string>((resolve) => {
      listener = (line) => {
        if (pattern.test(line)) resolve(line)
      }
      this.#onLine.push(listener)
    })
    return within(timeoutMs, () => `a log line like ${pattern}\n${this.lastLines(40)}`, come).finally(() => {
      this.#onLine = this.#onLine.filter((other) => other !== listener)
    })
  }

  lastLines(count: number): string {
    return this.log.slice(-count).join('\n')
  }

  /** Ends both daemons in good order, or else by force, and removes the folder. True if good order was enough. */
  async stop(): Promise<boolean> {
    let clean = true
    if (!this.#hasExited) {
      this.#process.kill('SIGTERM')
      clean = await within(STOP_MS, 'end of the lab', this.#exited).then(
        () => true,
        () => false,
      )
    }
    for (const pid of this.#pids) if (isAlive(pid)) clean = false
    this.#killAll()
    await this.#exited
    for (const lines of this.#lines) lines.close()
    this.#forget()
    this.folder.remove()
    return clean
  }

  /** A daemon that has just been started has no socket for a moment. */
  async #reachable(side: Side): Promise<void> {
    const deadlineMs = performance.now() + STATE_MS
    for (;;) {
      try {
        await this.host(side)
        return
      } catch (error) {
        if (performance.now() > deadlineMs) throw error
      }
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS))
    }
  }

  #note(line: string): void {
    if (this.log.length === LOG_LINES_MAX) this.log.shift()
    this.log.push(line)
    for (const listener of this.#onLine) listener(line)
  }

  /** Synchronous, for the end of the process. */
  #killAll(): void {
    if (!this.#hasExited && this.#process.pid !== undefined) killQuietly(this.#process.pid)
    for (const pid of this.#pids) killQuietly(pid)
  }
}

function argumentsOf(options: LabOptions): string[] {
  const words: string[] = []
  if (options.size !== undefined) words.push('--size', options.size)
  if (options.order !== undefined) words.push('--order', options.order)
  if (options.protocol !== undefined) words.push('--protocol', options.protocol)
  if (options.linkDelayMs !== undefined) words.push('--link-delay-ms', String(options.linkDelayMs))
  if (options.restart === true) words.push('--restart')
  return words
}

export function isReady(resource: ResourceReport): boolean {
  const { role, peerRole, connection, volumes } = resource
  return (
    role === 'Primary' &&
    peerRole === 'Primary' &&
    connection === 'Connected' &&
    volumes.every((v) => v.disk === 'UpToDate' && v.peerDisk === 'UpToDate' && v.outOfSyncBlocks === 0)
  )
}

export function describe(resource: ResourceReport | undefined): string {
  if (resource === undefined) return 'no report'
  const { connection, connectionReason, role, peerRole, volumes } = resource
  const states = volumes.map(
    (v) => `${v.connection} ${v.disk}/${v.peerDisk} out-of-sync ${v.outOfSyncBlocks} suspended [${v.suspended}]`,
  )
  return `${connection} ${role}/${peerRole} ${states.join('; ')} ${connectionReason ?? ''}`
}

/** A daemon of the lab; its number may have been given to another process only after it was reaped, long ago. */
async function killAndWait(pid: number): Promise<void> {
  process.kill(pid, 'SIGKILL')
  const deadlineMs = performance.now() + 5_000
  while (isAlive(pid)) {
    if (performance.now() > deadlineMs) throw new Error(`process ${pid} survived SIGKILL`)
    await new Promise((resolve) => setTimeout(resolve, 2))
  }
}

/** A zombie that its parent has not reaped yet is as dead as it can be, but answers; the lab reaps its daemons. */
function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}

function killQuietly(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch {
    // It is gone: what was wanted.
  }
}

export const labFolder = (lab: Lab, ...names: string[]): string => join(lab.folder.path, ...names)
