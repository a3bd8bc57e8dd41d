// Configuration files in memory, for tests: a map of paths to texts behind the port that src/config reads through.

import { posix } from 'node:path'
import type { ConfigFiles } from '../../src/config/index.ts'

export function memoryFiles(texts: Readonly<Record<string, string>>): ConfigFiles {
  const paths = new Map(Object.entries(texts))
  return {
    read(path) {
      const text = paths.get(path)
      if (text === undefined) throw new Error(`no such file: ${path}`)
      return text
    },
    glob: (pattern) => {
      const expression = new RegExp(`^${pattern.replaceAll('.', '\\.').replaceAll('*', '[^/]*')}$`)
      return [...paths.keys()].filter((path) => expression.test(path)).reverse() // the loader must sort
    },
    realPath: (path) => path,
    directoryOf: (path) => path.slice(0, Math.max(0, path.lastIndexOf('/'))),
    join: (directory, path) => (path.startsWith('/') || directory === '' ? path : posix.join(directory, path)),
  }
}
