// What a command is about: `all`, RESOURCE, RESOURCE/VNR, or minor-N and N as DRBD's own tools take them.

import { AppError } from '../base/errors.ts'
import type { ResourceReport } from '../control/api.ts'

export interface Target {
  /** For messages: as it was written, or the resource's name for `all`. */
  readonly object: string
  readonly resource: string
  /** undefined: all volumes. */
  readonly volume: number | undefined
}

export class ObjectError extends AppError {
  override readonly name = 'ObjectError'
  readonly code = 'E_OBJECT'
  readonly hint = 'An object is `all`, RESOURCE, RESOURCE/VNR or minor-N.'
  readonly exitCode = 20
}

/** Names that nothing has are kept: the daemon says what it thinks of them. */
export function targetsOf(objects: readonly string[], resources: readonly ResourceReport[]): Target[] {
  return objects.flatMap((object) => {
    if (object === 'all') return resources.map(({ name }) => ({ object: name, resource: name, volume: undefined }))
    return [targetOf(object, resources)]
  })
}

function targetOf(object: string, resources: readonly ResourceReport[]): Target {
  const known = resources.find(({ name }) => name === object)
  if (known !== undefined) return { object, resource: object, volume: undefined }
  const minor = /^(?:minor-)?([0-9]{1,7})$/.exec(object)?.[1]
  const byMinor = minor === undefined ? undefined : withMinor(Number(minor), resources)
  if (byMinor !== undefined) return { object, ...byMinor }
  const parts = /^(.+)\/([0-9]{1,5})$/.exec(object)
  if (parts !== null) return { object, resource: parts[1] as string, volume: Number(parts[2]) }
  if (object === '' || object.includes('/')) throw new ObjectError(`'${object}' is no object`)
  return { object, resource: object, volume: undefined }
}

function withMinor(
  minor: number,
  resources: readonly ResourceReport[],
): { readonly resource: string; readonly volume: number } | undefined {
  for (const { name, volumes } of resources) {
    const volume = volumes.find((one) => one.minor === minor)
    if (volume !== undefined) return { resource: name, volume: volume.volume }
  }
  return undefined
}
