// Kernel modules and the order in which they load. The package brings no modules.dep, so the dependencies are read from
// the `depends=` field of each module's .modinfo section.

import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

interface ModuleInfo {
  readonly depends: readonly string[]
  readonly aliases: readonly string[]
}

export class ModuleSet {
  /** By name with underscores, as the kernel itself spells them. */
  readonly #files = new Map<string, string>()
  readonly #infos = new Map<string, ModuleInfo>()

  constructor(modulesFolder: string) {
    this.#walk(join(modulesFolder, 'kernel'))
  }

  /** These modules and all they need, dependencies first. What is built into the kernel has no file and is left out. */
  inLoadOrder(names: readonly string[]): string[] {
    const order: string[] = []
    const visit = (name: string): void => {
      if (order.includes(name) || !this.#files.has(name)) return
      for (const needed of this.info(name).depends) visit(needed)
      order.push(name)
    }
    for (const name of names) visit(canonical(name))
    return order
  }

  contents(name: string): Buffer {
    const file = this.#files.get(canonical(name))
    if (file === undefined) throw new Error(`module ${name} is not in the kernel package`)
    return readFileSync(file)
  }

  info(name: string): ModuleInfo {
    const known = this.#infos.get(name)
    if (known !== undefined) return known
    const text = this.contents(name).toString('latin1')
    const values = (key: string): string[] =>
      [...text.matchAll(new RegExp(`\\0${key}=([^\\0]*)`, 'g'))].map((match) => match[1] ?? '')
    const depends = (values('depends')[0] ?? '').split(',').filter((one) => one !== '')
    const info = { depends: depends.map(canonical), aliases: values('alias') }
    this.#infos.set(name, info)
    return info
  }

  #walk(folder: string): void {
    for (const entry of readdirSync(folder, { withFileTypes: true })) {
      const path = join(folder, entry.name)
      if (entry.isDirectory()) this.#walk(path)
      else if (entry.name.endsWith('.ko')) this.#files.set(canonical(entry.name.slice(0, -'.ko'.length)), path)
    }
  }
}

const canonical = (name: string): string => name.replaceAll('-', '_')
