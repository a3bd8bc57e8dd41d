// The files of the machine behind the port of config/: reading, and the patterns of glob(3) that `include` uses (`*`, `?`,
// `[...]`, backslash). As in glob(3) none of them matches a slash, nor a dot at the start of a name. Node.js 20 has no glob.

import { readdirSync, readFileSync, realpathSync, statSync } from 'node:fs'
import { dirname, isAbsolute, join } from 'node:path'
import type { ConfigFiles } from '../config/index.ts'

/** `-c -` of drbdadm. */
export const STANDARD_INPUT = 'STDIN'

export function nodeConfigFiles(): ConfigFiles {
  return {
    read: (path) => readFileSync(path === STANDARD_INPUT ? 0 : path, 'utf8'),
    glob: globFiles,
    realPath: (path) => (path === STANDARD_INPUT ? path : realpathSync(path)),
    directoryOf: (path) => (path === STANDARD_INPUT ? '.' : dirname(path)),
    join: (directory, path) => (isAbsolute(path) || directory === '.' ? path : join(directory, path)),
  }
}

/** Paths that exist and match; those that a literal tail names are checked as well. */
function globFiles(pattern: string): string[] {
  const isRooted = isAbsolute(pattern)
  let found = [isRooted ? '/' : '']
  for (const part of pattern.split('/').filter((name) => name !== '')) {
    const next: string[] = []
    for (const directory of found) {
      for (const name of namesMatching(directory, part)) next.push(directory === '' ? name : join(directory, name))
    }
    found = next
  }
  return pattern === '' ? [] : found
}

function namesMatching(directory: string, part: string): string[] {
  if (!/[*?[\\]/.test(part)) return exists(join(directory === '' ? '.' : directory, part)) ? [part] : []
  const expression = expressionOf(part)
  return namesIn(directory === '' ? '.' : directory).filter(
    (name) => (!name.startsWith('.') || part.startsWith('.')) && expression.test(name),
  )
}

function exists(path: string): boolean {
  try {
    return statSync(path, { throwIfNoEntry: false }) !== undefined
  } catch {
    return false // not a directory on the way, no permission, a name that is too long
  }
}

/** A directory that cannot be read matches nothing, as in glob(3) without GLOB_ERR. */
function namesIn(directory: string): string[] {
  try {
    return readdirSync(directory)
  } catch {
    return []
  }
}

function expressionOf(part: string): RegExp {
  const source = part.replace(
    /\\(.)|(\*)|(\?)|\[([!^]?)(\]?[^\]]*)\]|([^A-Za-z0-9])/gsu,
    (all, ...groups: string[]) => {
      const [escaped, star, one, not, set] = groups
      if (escaped !== undefined) return literal(escaped)
      if (star !== undefined) return '[^/]*'
      if (one !== undefined) return '[^/]'
      if (set !== undefined) return `[${not === '' ? '' : '^/'}${set.replace(/[\\\][^]/g, '\\$&')}]`
      return literal(all)
    },
  )
  try {
    return new RegExp(`^${source}$`, 'su')
  } catch {
    return /^(?!)/ // a range that runs backwards matches nothing
  }
}

const literal = (text: string): string =>
  text.replace(/[^A-Za-z0-9_]/gu, (c) => `\\u{${c.codePointAt(0)?.toString(16)}}`)
