// One coprime daemon, a process of its own, as the other host of resource r0.

import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { connectNbd, type NbdConnectionToServer } from '../../../src/adapters/nbd-client.ts'
import type { CommandReply, CommandRequest, ResourceReport, VolumeReport } from '../../../src/control/api.ts'
import { ControlClient } from '../../../src/control/client.ts'
import { coprime, LongRunning } from '../../e2e/processes.ts'

const WAIT_MS = 90_000

export interface CoprimeState extends ResourceReport {
  /** The only volume. */
  readonly volume: VolumeReport
}

interface LogLine {
  readonly level: string
  readonly msg: string
}

export class CoprimeHost {
  readonly #folder: string
  readonly #words: readonly string[]
  readonly control: ControlClient
  #daemon: LongRunning | undefined
  #nbd: NbdConnectionToServer | undefined

  /** `node`: which host of the configuration it is. */
  constructor(folder: string, node: 'a' | 'b' = 'a') {
    this.#folder = folder
    const control = join(folder, 'control')
    this.#words = ['-c', join(folder, 'r0.res'), '--node', node, '--runtime-dir', folder, '--control', control]
    this.control = new ControlClient(control)
  }

  get nbdSocket(): string {
    return join(this.#folder, 'nbd')
  }

  get #logFile(): string {
    return join(this.#folder, 'log')
  }

  configure(conf: string): void {
    writeFileSync(join(this.#folder, 'r0.res'), conf)
  }

  // ---- process ------------------------------------------------------------------------------------------------------

  /** A command of the program that needs no daemon; its output. */
  async run(...words: string[]): Promise<string> {
    const { exitCode, stdout, stderr } = await coprime([...words, ...this.#words])
    assert.equal(exitCode, 0, `coprime ${words.join(' ')}: ${stdout}${stderr}`)
    return stdout
  }

  async start(): Promise<void> {
    assert.equal(this.#daemon, undefined, 'one daemon at a time')
    const words = ['daemon', ...this.#words, '--dashboard', 'none', '--log-level', 'debug', '--log-file', this.#logFile]
    // It dies with this process, however that ends.
    this.#daemon = new LongRunning([...words, '--json'], { through: ['setpriv', '--pdeathsig', 'KILL'] })
    await this.#daemon.firstLine()
  }

  async stop(): Promise<void> {
    await this.#closeNbd()
    const daemon = this.#daemon
    this.#daemon = undefined
    if (daemon === undefined) return
    this.#signal(daemon, 'SIGCONT')
    await daemon.end()
  }

  /** SIGKILL: what was written stays in the page cache, as after a crash of the program. */
  async kill(): Promise<void> {
    this.#nbd?.destroy()
    this.#nbd = undefined
    const daemon = this.#daemon
    this.#daemon = undefined
    await daemon?.end('SIGKILL')
  }

  freeze(): void {
    if (this.#daemon !== undefined) this.#signal(this.#daemon, 'SIGSTOP')
  }

  thaw(): void {
    if (this.#daemon !== undefined) this.#signal(this.#daemon, 'SIGCONT')
  }

  /** Writes of the daemon behind this byte of any file fail; undefined: they do not. */
  limitFileSize(bytes: number | undefined): void {
    const words = ['--pid', String(this.pid), `--fsize=${bytes ?? 'unlimited'}:unlimited`]
    const { status, stderr } = spawnSync('prlimit', words, { encoding: 'utf8' })
    assert.equal(status, 0, stderr)
  }

  get pid(): number {
    const pid = this.#daemon?.child.pid
    assert.ok(pid !== undefined, 'the daemon runs')
    return pid
  }

  get isRunning(): boolean {
    return this.#daemon !== undefined
  }

  #signal(daemon: LongRunning, signal: NodeJS.Signals): void {
    daemon.child.kill(signal)
  }

  // ---- commands and state ---------------------------------------------------------------------------------------------

  async command(request: CommandRequest): Promise<void> {
    const reply = await this.control.command('r0', request)
    assert.equal(reply.code, 0, `coprime ${request.command}: ${reply.code} ${reply.text} ${reply.detail ?? ''}`)
  }

  /** Of a command that must be refused. */
  async refused(request: CommandRequest): Promise<CommandReply> {
    const reply = await this.control.command('r0', request)
    assert.notEqual(reply.code, 0, `coprime ${request.command} should have been refused`)
    return reply
  }

  async state(): Promise<CoprimeState> {
    return withVolume(await this.control.get<ResourceReport>('/resources/r0'))
  }

  async until(what: string, holds: (state: CoprimeState) => boolean, timeoutMs = WAIT_MS): Promise<CoprimeState> {
    let last: CoprimeState | undefined
    const reached = await this.control.waitFor((resources) => {
      const report = resources.get('r0')
      if (report === undefined) return false
      last = withVolume(report)
      return holds(last)
    }, timeoutMs)
    assert.ok(reached && last !== undefined, `coprime: not ${what} within ${timeoutMs} ms, but: ${describe(last)}`)
    return last
  }

  // ---- data ---------------------------------------------------------------------------------------------------------

  /** One connection of a client, kept open until the daemon stops. */
  async nbd(): Promise<NbdConnectionToServer> {
    this.#nbd ??= await connectNbd({ socketPath: this.nbdSocket, exportName: 'r0', timeoutMs: WAIT_MS })
    return this.#nbd
  }

  async #closeNbd(): Promise<void> {
    const nbd = this.#nbd
    this.#nbd = undefined
    await nbd?.disconnect()
  }

  async primary(): Promise<void> {
    await this.command({ command: 'primary' })
  }

  async secondary(): Promise<void> {
    await this.#closeNbd()
    // The server hears of the goodbye some time after it.
    await this.until('without clients', ({ volume }) => volume.openCount === 0)
    await this.command({ command: 'secondary' })
  }

  // ---- log ----------------------------------------------------------------------------------------------------------

  log(): readonly LogLine[] {
    if (!existsSync(this.#logFile)) return []
    const lines = readFileSync(this.#logFile, 'utf8').split('\n')
    return lines.filter((line) => line !== '').map((line) => JSON.parse(line) as LogLine)
  }

  /** How often the log says it. */
  logged(pattern: RegExp): number {
    return this.log().filter(({ msg }) => pattern.test(msg)).length
  }

  clearLog(): void {
    writeFileSync(this.#logFile, '')
  }
}

function withVolume(report: ResourceReport): CoprimeState {
  const volume = report.volumes[0]
  assert.ok(volume !== undefined, 'r0 has one volume')
  return { ...report, volume }
}

export function describe(state: CoprimeState | undefined): string {
  if (state === undefined) return 'nothing'
  const { volume } = state
  return `${state.connection}/${volume.connection} ${state.role}/${state.peerRole} ${volume.disk}/${volume.peerDisk}, ${volume.outOfSyncBlocks} blocks out of sync, ${state.connectionReason ?? ''}`
}
