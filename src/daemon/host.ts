// All resources of this host together, as the control server sees them.

import type {
  CommandReply,
  CommandRequest,
  HostReport,
  LinkReport,
  LinkRequest,
  ResourceReport,
} from '../control/api.ts'
import type { ControlBackend } from '../control/server.ts'
import { programVersion } from '../control/version.ts'
import type { PacketRecord } from '../runtime/packet-trace.ts'
import type { HostedResource } from './hosted-resource.ts'

/** After the first of a burst of changes listeners hear the next one this much later. */
const CHANGE_PAUSE_MS = 20

/** The lab's link: one for all resources. `delayMs` is read by their networks. */
export interface LabLink {
  delayMs: number
  cut: boolean
}

export class Host implements ControlBackend {
  readonly link: { report(): LinkReport; change(request: LinkRequest): void } | undefined
  readonly #name: string
  readonly #configFile: string
  readonly #resources = new Map<string, HostedResource>()
  readonly #listeners = new Set<(resource: string) => void>()
  readonly #changed = new Set<string>()
  #timer: NodeJS.Timeout | undefined
  #lastNoticeMs = Number.NEGATIVE_INFINITY

  constructor(options: { readonly name: string; readonly configFile: string; readonly link: LabLink | undefined }) {
    this.#name = options.name
    this.#configFile = options.configFile
    const { link } = options
    if (link !== undefined) {
      this.link = { report: () => ({ ...link }), change: (request) => this.#changeLink(link, request) }
    }
  }

  get resources(): ReadonlyMap<string, HostedResource> {
    return this.#resources
  }

  add(resource: HostedResource): void {
    this.#resources.set(resource.name, resource)
  }

  report(): HostReport {
    return {
      host: this.#name,
      pid: process.pid,
      version: programVersion(),
      configFile: this.#configFile,
      resources: [...this.#resources.values()].map((resource) => resource.report()),
    }
  }

  resource(name: string): ResourceReport | undefined {
    return this.#resources.get(name)?.report()
  }

  async command(name: string, request: CommandRequest): Promise<CommandReply> {
    const resource = this.#resources.get(name)
    if (resource === undefined) return { code: 158, text: 'Unknown resource' }
    return resource.command(request)
  }

  watchPackets(name: string, listener: (record: PacketRecord) => void): () => void {
    return this.#resources.get(name)?.watchPackets(listener) ?? (() => {})
  }

  onChange(listener: (resource: string) => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  /** To be called at any change of a resource, however often. */
  changed(resource: string): void {
    if (this.#listeners.size === 0) return
    this.#changed.add(resource)
    if (this.#timer !== undefined) return
    const waitMs = Math.max(0, this.#lastNoticeMs + CHANGE_PAUSE_MS - performance.now())
    this.#timer = setTimeout(() => this.#notify(), waitMs)
  }

  #notify(): void {
    this.#timer = undefined
    this.#lastNoticeMs = performance.now()
    const names = [...this.#changed]
    this.#changed.clear()
    for (const listener of this.#listeners) for (const name of names) listener(name)
  }

  #changeLink(link: LabLink, request: LinkRequest): void {
    link.delayMs = request.delayMs ?? link.delayMs
    if (request.cut === undefined || request.cut === link.cut) return
    link.cut = request.cut
    for (const resource of this.#resources.values()) {
      if (link.cut) resource.link?.cut()
      else resource.link?.heal()
    }
  }
}
