// The NBD exports of a resource: one per volume, while this host is Primary.

import { MIB, SECTOR_BYTES } from '../base/units.ts'
import type { NbdExport, NbdExportEntry, NbdExportRefusal, NbdExports, NbdExtent } from '../nbd/exports.ts'
import type { ClientDone, ClientRequest, ReplicaApi, ResourceStatus, VolumeStatus } from '../runtime/api.ts'
import type { Disk } from '../runtime/ports.ts'

export interface ExportedVolume {
  readonly volume: number
  readonly exportName: string
}

export interface ResourceExportsOptions {
  readonly name: string
  readonly volumes: readonly ExportedVolume[]
  readonly replica: Pick<ReplicaApi, 'submit' | 'admits' | 'onAdmission' | 'status'>
  /** The data device of a volume; asked only while the volume is UpToDate, so that it is open. */
  dataDisk(volume: number): Disk | undefined
  /** Requests are admitted again. */
  onAdmitted(): void
  /** The number of open exports has changed. */
  onOpenersChanged(count: number): void
}

const BLOCK_SIZE = { minimum: SECTOR_BYTES, preferred: 4096, maximum: 32 * MIB }

export class ResourceExports implements NbdExports {
  readonly #options: ResourceExportsOptions
  readonly #openCounts = new Map<number, number>()
  #awaitsAdmission = false
  /** From now on exports are refused: the resource goes down. */
  closing = false

  constructor(options: ResourceExportsOptions) {
    this.#options = options
  }

  openCount(volume: number): number {
    return this.#openCounts.get(volume) ?? 0
  }

  list(): readonly NbdExportEntry[] {
    const { replica, volumes, name } = this.#options
    const { role } = replica.status()
    return volumes.map(({ volume, exportName }) => ({
      name: exportName,
      description: `resource ${name}, volume ${volume}, ${role}`,
    }))
  }

  open(name: string): NbdExport | NbdExportRefusal {
    const found = this.#find(name)
    if (found === undefined) {
      const names = this.#options.volumes.map(({ exportName }) => exportName).join(', ')
      return { refused: 'unknown', text: `there is no export '${name.slice(0, 200)}' here, but: ${names}` }
    }
    const status = this.#options.replica.status()
    const volume = status.volumes.find((one) => one.volume === found.volume)
    const refusal = this.closing ? refusedAsClosing(this.#options.name) : refusalOf(status, volume)
    if (refusal !== undefined || volume === undefined) return refusal ?? refusedAsClosing(this.#options.name)
    return this.#opened(found, volume)
  }

  /** The default export is the only one; `RESOURCE/VNR` fits a single volume, too. */
  #find(name: string): ExportedVolume | undefined {
    const { volumes } = this.#options
    const exact = volumes.find(({ exportName }) => exportName === name)
    if (exact !== undefined || volumes.length !== 1) return exact
    const only = volumes[0]
    return name === '' || name === `${only?.exportName}/${only?.volume}` ? only : undefined
  }

  #opened({ volume, exportName }: ExportedVolume, status: VolumeStatus): NbdExport {
    const { replica } = this.#options
    const admits = (): boolean => this.#admits()
    this.#count(volume, 1)
    return {
      name: exportName,
      description: `resource ${this.#options.name}, volume ${volume}`,
      volume,
      sizeBytes: status.sizeSectors * SECTOR_BYTES,
      readOnly: false,
      blockSize: BLOCK_SIZE,
      get admits() {
        return admits()
      },
      submit: (request: ClientRequest, done: ClientDone) => replica.submit(request, done),
      extents: (offsetBytes, lengthBytes, extentsMax) => this.#extents(volume, offsetBytes, lengthBytes, extentsMax),
      closed: () => this.#count(volume, -1),
    }
  }

  #admits(): boolean {
    const { replica, onAdmitted } = this.#options
    if (replica.admits) return true
    if (!this.#awaitsAdmission) {
      this.#awaitsAdmission = true
      replica.onAdmission(() => {
        this.#awaitsAdmission = false
        onAdmitted()
      })
    }
    return false
  }

  /** Only an UpToDate disk knows where data are; of any other everything counts as data. */
  #extents(volume: number, offsetBytes: number, lengthBytes: number, extentsMax: number): readonly NbdExtent[] {
    const status = this.#options.replica.status().volumes.find((one) => one.volume === volume)
    const disk = this.#options.dataDisk(volume)
    const sizeBytes = (status?.sizeSectors ?? 0) * SECTOR_BYTES
    const fits = disk !== undefined && offsetBytes + lengthBytes <= Math.min(sizeBytes, disk.sizeBytes)
    if (!fits || status?.disk !== 'UpToDate') return [{ lengthBytes, hole: false }]
    return disk.extents(offsetBytes, lengthBytes, extentsMax)
  }

  #count(volume: number, change: 1 | -1): void {
    this.#openCounts.set(volume, this.openCount(volume) + change)
    let total = 0
    for (const count of this.#openCounts.values()) total += count
    this.#options.onOpenersChanged(total)
  }
}

const refusedAsClosing = (name: string): NbdExportRefusal => ({ refused: 'shutdown', text: `${name} is going down` })

function refusalOf(status: ResourceStatus, volume: VolumeStatus | undefined): NbdExportRefusal | undefined {
  const { name, role } = status
  if (role !== 'Primary') {
    return { refused: 'policy', text: `${name} is ${role} on this host; run: coprime primary ${name}` }
  }
  if (volume === undefined || volume.sizeSectors === 0) {
    return { refused: 'policy', text: `the size of ${name} is not known yet: neither disk is attached` }
  }
  return undefined
}
