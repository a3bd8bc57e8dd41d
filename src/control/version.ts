// The version of this program: that of package.json, which stands above this file wherever it was compiled to.

import { readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

export function programVersion(): string {
  let folder = dirname(fileURLToPath(import.meta.url))
  for (;;) {
    const found = versionIn(folder)
    if (found !== undefined) return found
    const parent = dirname(folder)
    if (parent === folder) return 'unknown'
    folder = parent
  }
}

function versionIn(folder: string): string | undefined {
  let text: string
  try {
    text = readFileSync(join(folder, 'package.json'), 'utf8')
  } catch {
    return undefined // not in this folder: look further up
  }
  const content = JSON.parse(text) as { readonly name?: unknown; readonly version?: unknown }
  return content.name === 'coprime' && typeof content.version === 'string' ? content.version : undefined
}
