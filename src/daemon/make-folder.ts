// mkdir -p. Node.js has it, but tries for ever where a file system says that a folder's own parent does not exist (/proc).

import { mkdirSync, statSync } from 'node:fs'
import { dirname } from 'node:path'

import { systemCodeOf } from '../adapters/disk-errors.ts'

/** Throws what node:fs throws. `mode` is that of every folder that is made. */
export function makeFolder(path: string, mode = 0o777): void {
  try {
    mkdirSync(path, mode)
  } catch (error) {
    if (statSync(path, { throwIfNoEntry: false })?.isDirectory() === true) return
    const parent = dirname(path)
    if (
      systemCodeOf(error) !== 'ENOENT' ||
      parent === path ||
      statSync(parent, { throwIfNoEntry: false }) !== undefined
    ) {
      throw error
    }
    makeFolder(parent, mode)
    makeFolder(path, mode)
  }
}
