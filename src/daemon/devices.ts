// Opens the devices of a resource's volumes for its replica, and keeps an eye on them: whether those of the last attach are
// given back before they are opened again, and which disk answers questions about data and holes.

import { DiskOpenError } from '../adapters/disk-errors.ts'
import { type FileDisk, openFileDisk } from '../adapters/file-disk.ts'
import { AppError } from '../base/errors.ts'
import type { HostSection, Volume } from '../config/index.ts'
import type { ReplicaPorts, VolumeDevices } from '../runtime/api.ts'
import type { Disk } from '../runtime/ports.ts'

type OpenDone = Parameters<ReplicaPorts['openDevices']>[1]

const CANNOT_OPEN = 104
const MINOR_UNKNOWN = 127

export class DeviceOpener {
  readonly #volumes: ReadonlyMap<number, Volume>
  /** Of the latest attach. */
  readonly #opened = new Map<number, readonly FileDisk[]>()

  constructor(local: HostSection) {
    this.#volumes = new Map(local.volumes.map((volume) => [volume.number, volume]))
  }

  open(volume: number, done: OpenDone): void {
    const waitFor = [...(this.#opened.get(volume) ?? [])]
    const next = (): void => {
      const disk = waitFor.pop()
      if (disk === undefined) setImmediate(() => this.#openNow(volume, done))
      else disk.whenReleased(next)
    }
    next()
  }

  /** The data device of the latest attach. It may be closed by now. */
  dataDisk(volume: number): Disk | undefined {
    return this.#opened.get(volume)?.[0]
  }

  #openNow(number: number, done: OpenDone): void {
    const volume = this.#volumes.get(number)
    if (volume === undefined) {
      done({ code: MINOR_UNKNOWN, message: `volume ${number} is not in the configuration` })
      return
    }
    const disks: FileDisk[] = []
    let devices: VolumeDevices
    try {
      devices = openVolume(volume, disks)
    } catch (error) {
      for (const disk of disks) disk.close()
      done(openFailure(error))
      return
    }
    this.#opened.set(number, disks)
    done(undefined, devices)
  }
}

/** What was opened is pushed to `opened` at once, so that it can be closed if the rest fails. */
function openVolume(volume: Volume, opened: FileDisk[]): VolumeDevices {
  const { disk: path, metaDisk } = volume
  const data = openFileDisk(path)
  opened.push(data)
  if (metaDisk.kind === 'internal') return { data, meta: data, metaIndex: 'internal' }
  const meta = openFileDisk(metaDisk.path, { role: 'meta', shared: metaDisk.index !== 'flexible' })
  opened.push(meta)
  return { data, meta, metaIndex: metaDisk.index }
}

function openFailure(error: unknown): { readonly code: number; readonly message: string } {
  if (error instanceof DiskOpenError)
    return { code: error.details.drbdCode, message: `${error.message}. ${error.hint}` }
  if (error instanceof AppError) return { code: CANNOT_OPEN, message: `${error.message}. ${error.hint}` }
  throw error
}
