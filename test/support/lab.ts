// The lab (`coprime lab`): two real daemons on this machine, in a folder of their own that goes away with the test, however
// the test ends. States are awaited through the daemons' event streams, with bounds.

import { type ChildProcess, spawn } from 'node:child_process'
import { readFileSync, watch } from 'node:fs'
import { join } from 'node:path'
import { createInterface, type Interface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { connectNbd, type NbdConnectionToServer } from '../../src/adapters/nbd-client.ts'
import { defined } from '../../src/base/assert.ts'
import type { HostReport, ResourceReport, VolumeReport } from '../../src/control/api.ts'
import { ControlClient } from '../../src/control/client.ts'
import type { LabLine, LabSideLine, LabStatus } from '../../src/daemon/lab/api.ts'
import type { OrderName } from '../../src/runtime/api.ts'
import { within } from './bounded.ts'
import { type DiskPair, SIDES, type Side } from './disk-pair.ts'
import { type Finished, mustRun } from './programs.ts'
import { onProcessExit, scratchFolder } from './scratch.ts'

/** The compiled command that stands beside this compiled file. */
export const COPRIME_MAIN = fileURLToPath(new URL('../../src/cli/main.js', import.meta.url))

export interface LabOptions {
  /** As for `--size`. */
  readonly size?: string
  readonly order?: OrderName
  readonly writeNowAcks?: boolean
  readonly protocol?: 'A' | 'B' | 'C'
  readonly linkDelayMs?: number
  readonly restart?: boolean
  readonly logLevel?: 'debug' | 'info'
}

const READY_MS = 30_000
const STOP_MS = 15_000
const COMMAND_MS = 30_000
const STATE_MS = 30_000
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
  /** What the lab itself wrote. */
  readonly notes: string[] = []
  readonly #process: ChildProcess
  readonly #lines: Interface[] = []
  readonly #exited: Promise<void>
  readonly #forget: () => void
  /** Of every daemon that was ever seen, so that none outlives the test. */
  readonly #pids = new Set<number>()
  #ready: LabLine | undefined
  #sizeBytes = 0
  #hasExited = false
  #onFirstLine: (line: string) => void = () => {}

  constructor(options: LabOptions) {
    const words = ['lab', '--json', '--dir', this.folder.path, ...argumentsOf(options)]
    this.#process = spawn(process.execPath, ['--enable-source-maps', COPRIME_MAIN, ...words], {
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    this.#exited = new Promise((resolve) => {
      this.#process.once('exit', (code, signal) => {
        this.#hasExited = true
        this.notes.push(`lab ended with ${signal ?? code}`)
        resolve()
      })
      this.#process.once('error', (error) => {
        this.#hasExited = true
        this.notes.push(`lab: ${error.message}`)
        resolve()
      })
    })
    let first = true
    for (const stream of [this.#process.stdout, this.#process.stderr]) {
      if (stream === null) continue
      const lines = createInterface({ input: stream })
      lines.on('line', (line) => {
        this.notes.push(line)
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
    this.#ready = JSON.parse(text) as LabLine
    for (const side of SIDES) this.#pids.add(this.#ready[side].pid)
    await this.untilReady()
    const connection = await this.connect('a')
    this.#sizeBytes = connection.sizeBytes
    await connection.disconnect()
  }

  side(side: Side): LabSideLine {
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
    this.#remember(report.pid)
    return report
  }

  async resource(side: Side): Promise<ResourceReport> {
    return defined((await this.host(side)).resources[0], `resource on ${side}`)
  }

  async volume(side: Side): Promise<VolumeReport> {
    return defined((await this.resource(side)).volumes[0], `volume on ${side}`)
  }

  /** `coprime lab WORDS... --dir DIR`; rejects unless it succeeds. */
  command(...words: string[]): Promise<Finished> {
    const all = ['--enable-source-maps', COPRIME_MAIN, 'lab', ...words, '--dir', this.folder.path]
    return mustRun(process.execPath, all, { timeoutMs: COMMAND_MS })
  }

  /** What the command does, without starting a program for it. */
  async #ask(action: string, body: object): Promise<LabStatus> {
    const client = new ControlClient(defined(this.#ready, 'first line of the lab').link)
    const status = await within(COMMAND_MS, action, client.post<LabStatus>(`/${action}`, body))
    for (const side of SIDES) this.#remember(status[side].pid)
    return status
  }

  /** SIGKILL. Resolves when the process is gone. */
  async kill(side: Side): Promise<void> {
    const { [side]: killed } = await this.#ask('kill', { side })
    if (killed.pid !== null) throw new Error(`${side} has survived a kill, or has been started again`)
  }

  async restart(side: Side): Promise<void> {
    await this.#ask('restart', { side })
  }

  /** Undefined: not running. */
  async pid(side: Side): Promise<number | undefined> {
    const client = new ControlClient(defined(this.#ready, 'first line of the lab').link)
    const status = await within(COMMAND_MS, 'status of the lab', client.get<LabStatus>('/status'))
    this.#remember(status[side].pid)
    return status[side].pid ?? undefined
  }

  #remember(pid: number | null): void {
    if (pid !== null) this.#pids.add(pid)
  }

  /** On all links, from now on. */
  async delay(delayMs: number): Promise<void> {
    await this.#ask('delay', { delayMs })
  }

  async cut(): Promise<void> {
    await this.#ask('cut', {})
  }

  async heal(): Promise<void> {
    await this.#ask('heal', {})
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

  /** Lines of the daemon's log, from `from` on. */
  logLines(side: Side, from = 0): string[] {
    return readFileSync(this.#logPath(side), 'utf8').split('\n').slice(from, -1)
  }

  /** Waits for a line that fits, at or after line `from`. */
  async untilLogged(side: Side, pattern: RegExp, from: number, timeoutMs = STATE_MS): Promise<string> {
    let found: string | undefined
    const look = (): boolean => {
      found = this.logLines(side, from).find((line) => pattern.test(line))
      return found !== undefined
    }
    const watcher = watch(this.#logPath(side))
    try {
      const come = new Promise<void>((resolve) => {
        watcher.on('change', () => {
          if (look()) resolve()
        })
        if (look()) resolve()
      })
      await within(timeoutMs, () => `a log line of ${side} like ${pattern}\n${this.lastLines(30)}`, come)
    } finally {
      watcher.close()
    }
    return defined(found, 'log line')
  }

  #logPath(side: Side): string {
    return join(this.folder.path, `${side}.log`)
  }

  /** Of the lab and of both daemons. */
  lastLines(count: number): string {
    const logs = SIDES.flatMap((side) => {
      try {
        return this.logLines(side).slice(-count)
      } catch {
        return [`${side} has no log`]
      }
    })
    return [...this.notes.slice(-count), ...logs].join('\n')
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
  if (options.writeNowAcks === true) words.push('--write-now-acks')
  if (options.protocol !== undefined) words.push('--protocol', options.protocol)
  if (options.linkDelayMs !== undefined) words.push('--link-delay-ms', String(options.linkDelayMs))
  if (options.restart === true) words.push('--restart')
  if (options.logLevel !== undefined) words.push('--log-level', options.logLevel)
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
