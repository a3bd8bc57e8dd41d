// Folders for one test, gone with the process however it ends.

import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

const cleanups = new Set<() => void>()

/** `clean` runs when the process ends, unless the returned function is called before. It must be synchronous. */
export function onProcessExit(clean: () => void): () => void {
  if (cleanups.size === 0) installHooks()
  cleanups.add(clean)
  return () => cleanups.delete(clean)
}

let installed = false
function installHooks(): void {
  if (installed) return
  installed = true
  process.once('exit', () => {
    for (const clean of cleanups) clean()
  })
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, () => process.exit(1))
}

/** A short path: unix sockets are to be made below it. `remove` may be called at any time, and twice. */
export function scratchFolder(prefix = 'coprime-'): { readonly path: string; remove(): void } {
  const path = mkdtempSync(join(tmpdir(), prefix))
  const remove = (): void => {
    forget()
    rmSync(path, { recursive: true, force: true, maxRetries: 3 })
  }
  const forget = onProcessExit(remove)
  return { path, remove }
}
