// What is correct for DRBD and cannot be run here. Such a resource is read like any other, so that files stay unchanged and
// `dump` shows it; the refusal comes when somebody uses it.

import { normalizedAddress } from './address.ts'
import { ConfigError, type Position } from './config-error.ts'
import type { ResourceSource, SourceHost } from './configuration.ts'
import { addressTowards } from './hosts.ts'
import type { ConnectionNode } from './tree.ts'

const VOLUME_NUMBER_MAX = 65_535

interface Ends {
  readonly local: number | undefined
  /** Hosts that the local one is connected with. */
  readonly peers: number
  readonly connection: ConnectionNode | undefined
}

export function unsupportedReason(source: ResourceSource, { local, peers, connection }: Ends): ConfigError | undefined {
  const { body, hosts } = source
  const refusal = (position: Position, problem: string, hint: string): ConfigError => {
    const text = `in resource ${body.name.text}: ${problem}`
    return new ConfigError({ code: 'E_CONFIG_UNSUPPORTED', position, problem: text, hint })
  }
  const stacked = hosts.find(({ node }) => node.kind === 'stacked')
  if (stacked !== undefined) {
    return refusal(
      stacked.node.position,
      'stacked resources are not supported.',
      'Use it with DRBD, or replicate it once.',
    )
  }
  if (local !== undefined && peers > 1) {
    const hint = 'A resource has two hosts; connect this one with one other.'
    return refusal(body.name.position, `this host has ${peers} peers.`, hint)
  }
  for (const host of hosts) {
    const found = hostProblem(host, connection)
    if (found !== undefined) return refusal(found.position, found.problem, found.hint)
  }
  return undefined
}

function hostProblem({ node, volumes }: SourceHost, connection: ConnectionNode | undefined) {
  const address = addressTowards(node, connection)
  if (address === undefined) {
    return {
      position: node.position,
      problem: 'a host has no address.',
      hint: 'Add for example: address 10.0.0.1:7789;',
    }
  }
  const { family, host, position } = address
  if (family !== 'ipv4' && family !== 'ipv6') {
    return { position, problem: `address family ${family} is not supported.`, hint: 'Use ipv4 or ipv6.' }
  }
  if (normalizedAddress(family, host) === undefined) {
    return { position, problem: `'${host}' is no ${family} address.`, hint: 'Correct the address.' }
  }
  const diskless = volumes.find(({ disk }) => disk === undefined || disk === 'none')
  if (diskless !== undefined) {
    const problem = `volume ${diskless.number} has no disk on this host.`
    return { position: node.position, problem, hint: 'Both hosts need a disk.' }
  }
  const numbered = volumes.find(({ number }) => number > VOLUME_NUMBER_MAX)
  if (numbered === undefined) return undefined
  const problem = `volume ${numbered.number}: the highest number is ${VOLUME_NUMBER_MAX}.`
  return { position: node.position, problem, hint: 'Choose a smaller number.' }
}
