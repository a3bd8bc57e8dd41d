// One resource in this daemon: its replica with the ports of the machine, its NBD server, and the commands that people give
// it. A resource that is not up has a replica all the same, StandAlone and without a disk.

import { type DelayedNetwork, delayedNetwork } from '../adapters/delayed-network.ts'
import { addressText, type NbdAddress } from '../adapters/nbd-listen.ts'
import { NbdServer } from '../adapters/nbd-server.ts'
import { PAYLOAD_BUFFERS } from '../adapters/payload-buffers.ts'
import { systemBootId } from '../adapters/system-boot-id.ts'
import { SystemClock } from '../adapters/system-clock.ts'
import { SystemDigests } from '../adapters/system-digests.ts'
import { SystemEntropy } from '../adapters/system-entropy.ts'
import { SystemHandlers } from '../adapters/system-handlers.ts'
import { TcpNetwork } from '../adapters/tcp-network.ts'
import { LineLimit, STRANGER_LINES } from '../base/line-limit.ts'
import { exportName } from '../config/index.ts'
import type { CommandReply, CommandRequest, ResourceReport } from '../control/api.ts'
import { driverErrorText } from '../engine/result-texts.ts'
import type { AdminCommand, AdminResult } from '../runtime/api.ts'
import { PacketAudience, type PacketListener } from '../runtime/packet-trace.ts'
import type { Handlers, Network } from '../runtime/ports.ts'
import { Replica } from '../runtime/replica.ts'
import { DeviceOpener } from './devices.ts'
import { ResourceExports } from './exports.ts'
import { handlerEnvironment } from './handler-environment.ts'
import type { Log } from './log.ts'
import { replicationPortProblem } from './replication-port.ts'
import { resourceReport } from './report.ts'
import { connectProblem, type LocalResource, resourceSettings } from './settings.ts'

export interface HostedResourceOptions {
  readonly log: Log
  readonly configFile: string
  /** Where NBD is served if the configuration says nothing. */
  readonly nbdSocketPath: string
  /** Of a lab's link; undefined: the network as it is. */
  readonly link: { readonly delayMs: number } | undefined
  onChange(): void
}

const OK: CommandReply = { code: 0, text: '' }
const ATTACHED_ALREADY = 124
const CONNECTED_ALREADY = 125
const UNKNOWN_RESOURCE = 158
const UNKNOWN_VOLUME = 127
/** Clients have this long to take their last replies. */
const NBD_CLOSE_MS = 2000

export class HostedResource {
  readonly #here: LocalResource
  readonly #options: HostedResourceOptions
  readonly #log: Log
  readonly #devices: DeviceOpener
  readonly #digests = new SystemDigests()
  readonly #replica: Replica
  readonly #exports: ResourceExports
  readonly #listen: readonly NbdAddress[]
  #network: Network | DelayedNetwork
  readonly #strangerLines = new LineLimit(STRANGER_LINES)
  #nbd: NbdServer | undefined
  #nbdAddresses: readonly NbdAddress[] = []
  readonly #audience: PacketAudience
  #configured = false

  constructor(here: LocalResource, options: HostedResourceOptions) {
    this.#here = here
    this.#options = options
    this.#log = options.log
    this.#devices = new DeviceOpener(here.local)
    this.#network = this.#createNetwork()
    this.#listen = listenAddresses(here, options.nbdSocketPath)
    this.#replica = this.#createReplica()
    this.#audience = new PacketAudience(this.#replica, performance.timeOrigin)
    this.#exports = new ResourceExports({
      name: this.name,
      volumes: here.local.volumes.map(({ number }) => ({
        volume: number,
        exportName: exportName(here.resource, number),
      })),
      replica: this.#replica,
      dataDisk: (volume) => this.#devices.dataDisk(volume),
      onAdmitted: () => this.#nbd?.reviewAdmission(),
      onOpenersChanged: (count) => {
        this.#replica.setOpeners(count)
        this.#options.onChange()
      },
    })
  }

  get name(): string {
    return this.#here.resource.name
  }

  /** Of a lab: undefined otherwise. */
  get link(): DelayedNetwork | undefined {
    return 'cut' in this.#network ? this.#network : undefined
  }

  report(): ResourceReport {
    const { resource, local } = this.#here
    return resourceReport(this.#here, {
      status: this.#replica.status(),
      configured: this.#configured,
      nbd: this.#nbdAddresses.map(addressText),
      volumes: local.volumes.map(({ number }) => ({
        volume: number,
        openCount: this.#exports.openCount(number),
        exportName: exportName(resource, number),
      })),
    })
  }

  /** Every packet from now on, until what is returned is called. */
  watchPackets(listener: PacketListener): () => void {
    return this.#audience.add(listener)
  }

  /** Serves NBD; throws a ListenError. */
  async startServer(): Promise<void> {
    const server = new NbdServer({
      exports: this.#exports,
      listen: this.#listen,
      connectionsMax: this.#here.resource.coprime.nbd.maxConnections,
      log: (level, message) => this.#log[level]({ resource: this.name }, `nbd: ${message}`),
    })
    this.#nbdAddresses = await server.listen()
    this.#nbd = server
  }

  // ---- commands -----------------------------------------------------------------------------------------------------

  async command(request: CommandRequest): Promise<CommandReply> {
    const { volume } = request
    const reply =
      volume !== undefined && !this.#volumes.includes(volume) ? refusal(UNKNOWN_VOLUME) : await this.#run(request)
    const fields = { resource: this.name, ...request, code: reply.code, text: reply.text, detail: reply.detail }
    this.#log.info(fields, `command ${request.command}: ${reply.code === 0 ? 'done' : reply.text}`)
    this.#options.onChange()
    return reply
  }

  #run(request: CommandRequest): Promise<CommandReply> {
    switch (request.command) {
      case 'up':
        return this.#up()
      case 'attach':
        return this.#attach(this.#volumesOf(request))
      case 'connect':
        return this.#connect(request.discardMyData ?? false)
      case 'down':
        return this.#down()
      default:
        if (this.#configured) return this.#runConfigured(request)
        if (request.command === 'disconnect' || request.command === 'detach') return Promise.resolve(OK)
        return Promise.resolve(refusal(UNKNOWN_RESOURCE, `it is not up on this host; run: coprime up ${this.name}`))
    }
  }

  #runConfigured(request: CommandRequest): Promise<CommandReply> {
    const { command } = request
    const force = request.force ?? false
    switch (command) {
      case 'disconnect':
      case 'primary':
        return this.#tell({ type: command, force })
      case 'secondary':
        return this.#secondary(force)
      case 'resume-io':
        return this.#tell({ type: command })
      case 'detach':
        return this.#each(this.#volumesOf(request), (volume) => ({ type: command, volume, force }))
      case 'new-current-uuid': {
        const clearBitmap = request.clearBitmap ?? false
        return this.#each(this.#volumesOf(request), (volume) => ({ type: command, volume, clearBitmap }))
      }
      case 'verify': {
        const { startSector = 0, stopSector } = request
        return this.#each(this.#volumesOf(request), (volume) => ({ type: command, volume, startSector, stopSector }))
      }
      case 'resize': {
        const { sizeSectors = 0, assumeClean = false } = request
        return this.#each(this.#volumesOf(request), (volume) => ({ type: command, volume, sizeSectors, assumeClean }))
      }
      case 'pause-sync':
      case 'resume-sync':
      case 'invalidate':
      case 'invalidate-remote':
      case 'outdate':
        return this.#each(this.#volumesOf(request), (volume) => ({ type: command, volume }))
      default:
        return Promise.resolve(refusal(162))
    }
  }

  get #volumes(): number[] {
    return this.#here.local.volumes.map(({ number }) => number)
  }

  #volumesOf({ volume }: CommandRequest): number[] {
    return volume === undefined ? this.#volumes : [volume]
  }

  /** What is done already is no error: `up` completes what is missing. */
  async #up(): Promise<CommandReply> {
    for (const volume of this.#volumes) {
      const reply = await this.#attach([volume])
      if (reply.code !== 0 && reply.code !== ATTACHED_ALREADY) return reply
    }
    const reply = await this.#connect(false)
    return reply.code === CONNECTED_ALREADY ? OK : reply
  }

  #attach(volumes: readonly number[]): Promise<CommandReply> {
    this.#configured = true
    return this.#each(volumes, (volume) => ({ type: 'attach', volume }))
  }

  async #connect(discardMyData: boolean): Promise<CommandReply> {
    const problem = connectProblem(this.#here.resource, this.#digests)
    if (problem !== undefined) return problem
    if (this.#replica.status().connection === 'StandAlone') {
      const { host, port } = this.#here.local.address
      const taken = await replicationPortProblem(host, port)
      if (taken !== undefined) return taken
    }
    this.#configured = true
    return this.#tell({ type: 'connect', discardMyData })
  }

  async #secondary(force: boolean): Promise<CommandReply> {
    if (!force) return this.#tell({ type: 'secondary' })
    await this.#closeServer()
    this.#replica.setOpeners(0)
    const reply = await this.#tell({ type: 'secondary' })
    this.#exports.closing = false
    await this.startServer()
    return reply
  }

  async #down(): Promise<CommandReply> {
    if (!this.#configured) return OK
    const reply = await this.#tell({ type: 'down' })
    if (reply.code === 0) this.#configured = false
    return reply
  }

  #tell(command: AdminCommand): Promise<AdminResult> {
    return new Promise((resolve) => this.#replica.command(command, resolve))
  }

  /** Stops at the first that fails. */
  async #each(volumes: readonly number[], command: (volume: number) => AdminCommand): Promise<CommandReply> {
    for (const volume of volumes) {
      const result = await this.#tell(command(volume))
      if (result.code !== 0) return { ...result, volume }
    }
    return OK
  }

  // ---- end ----------------------------------------------------------------------------------------------------------

  /** Clients first, then the resource, in `timeoutMs` at most; then as if by a crash. */
  async stop(timeoutMs: number): Promise<void> {
    await this.#closeServer()
    this.#replica.setOpeners(0)
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<'late'>((resolve) => {
      timer = setTimeout(() => resolve('late'), timeoutMs)
    })
    const result = await Promise.race([this.#down(), late])
    clearTimeout(timer)
    if (result === 'late') this.#log.error({ resource: this.name }, `not down after ${timeoutMs} ms: dropped`)
    else if (result.code !== 0) this.#log.error({ resource: this.name }, `cannot go down: ${result.text}: dropped`)
    this.#replica.abandon()
  }

  async #closeServer(): Promise<void> {
    this.#exports.closing = true
    await this.#nbd?.close(NBD_CLOSE_MS)
    this.#nbd = undefined
  }

  // ---- ports --------------------------------------------------------------------------------------------------------

  #createNetwork(): Network | DelayedNetwork {
    const { local, peer } = this.#here
    const network = new TcpNetwork({
      local: { address: local.address.host, port: local.address.port },
      peer: { address: peer.address.host, port: peer.address.port },
      bindOutgoing: true,
      anySource: !this.#here.resource.coprime.checkPeerAddress,
      onStranger: (address) => this.#onStranger(address),
      onListenError: (error) => this.#log.error({ resource: this.name, code: error.code }, error.message),
    })
    const { link } = this.#options
    return link === undefined ? network : delayedNetwork(network, () => link.delayMs, new SystemClock())
  }

  #onStranger(address: string): void {
    const peer = this.#here.peer.address.host
    const text = `a connection from ${address} was refused: the peer is ${peer} (check-peer-address no takes any)`
    const line = this.#strangerLines.admit(text, performance.now())
    if (line !== undefined) this.#log.warn({ resource: this.name }, line)
  }

  #createReplica(): Replica {
    return new Replica(resourceSettings(this.#here), {
      clock: new SystemClock(),
      entropy: new SystemEntropy(),
      bootId: systemBootId(),
      network: this.#network,
      digests: this.#digests,
      handlers: this.#handlers(),
      buffers: PAYLOAD_BUFFERS,
      openDevices: (volume, done) => this.#devices.open(volume, done),
      log: (level, message, volume) => {
        this.#log[level](volume === undefined ? { resource: this.name } : { resource: this.name, volume }, message)
      },
      onStatusChange: () => this.#options.onChange(),
    })
  }

  /** The administrator's commands, with all that DRBD tells them. */
  #handlers(): Handlers {
    const { resource } = this.#here
    const system = new SystemHandlers({
      commands: resource.handlers,
      log: (handler, line) => this.#log.info({ resource: this.name, handler }, line),
    })
    const facts = handlerEnvironment(this.#here, this.#options.configFile)
    return {
      run: (name, environment, done) => system.run(name, new Map([...facts, ...environment]), done),
    }
  }
}

function listenAddresses({ resource }: LocalResource, socketPath: string): readonly NbdAddress[] {
  const { listen } = resource.coprime.nbd
  if (listen.length === 0) return [{ type: 'unix', path: socketPath }]
  return listen.map((one) =>
    one.kind === 'unix' ? { type: 'unix', path: one.path } : { type: 'tcp', host: one.host, port: one.port },
  )
}

function refusal(code: number, detail?: string): CommandReply {
  const text = driverErrorText(code)
  return detail === undefined ? { code, text } : { code, text, detail }
}
