// The page for people: the state of the resources at a glance, in plain HTML that reloads itself.

import type { HostReport, ResourceReport, VolumeReport } from './api.ts'
import { connectionWord, isSyncing, replicationWord } from './states.ts'

const REFRESH_SECONDS = 2
const GOOD: ReadonlySet<string> = new Set(['UpToDate', 'Connected', 'Established', 'Primary'])
const STYLE = `body{font:15px system-ui,sans-serif;margin:2em;color:#222}table{border-collapse:collapse;margin:.5em 0 1.5em}
td,th{border:1px solid #ccc;padding:.3em .7em;text-align:left}th{background:#f3f3f3}.good{color:#0a7d32}.bad{color:#b00020}`

/** Several hosts beside each other: the lab has two. A host without a report does not answer. */
export function statusPage(
  title: string,
  hosts: readonly { readonly name: string; readonly report: HostReport | undefined }[],
): string {
  const sections = hosts.map(({ name, report }) =>
    report === undefined ? `<h2>${escaped(name)}</h2><p class="bad">does not answer</p>` : hostSection(report),
  )
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="${REFRESH_SECONDS}">
<title>${escaped(title)}</title><style>${STYLE}</style></head>
<body><h1>${escaped(title)}</h1>
${sections.join('\n')}
<p><a href="status">status as JSON</a></p></body></html>
`
}

function hostSection(report: HostReport): string {
  const resources = report.resources.map(resourceSection).join('\n')
  return `<h2>${escaped(report.host)}</h2><p>process ${report.pid}, ${escaped(report.configFile)}</p>\n${resources}`
}

function resourceSection(resource: ResourceReport): string {
  const { name, configured, role, peerRole, connection, connectionReason, peer } = resource
  if (!configured) return `<h3>${escaped(name)}</h3><p>is down</p>`
  const reason = connectionReason === undefined ? '' : ` (${escaped(connectionReason)})`
  const rows = resource.volumes.map(volumeRow).join('\n')
  return `<h3>${escaped(name)}: ${word(role)}</h3>
<p>${escaped(peer.host)}: ${word(connectionWord(connection))}${reason}, ${word(peerRole)}</p>
<table><tr><th>export</th><th>size</th><th>disk</th><th>peer's disk</th><th>replication</th><th>out of sync</th><th>open</th></tr>
${rows}</table>
<p>${resource.nbd.map((address) => `<code>${escaped(address)}</code>`).join(' ')}</p>`
}

function volumeRow(volume: VolumeReport): string {
  const { resyncTotalBlocks: total, resyncLeftBlocks: left } = volume
  const done = isSyncing(volume.connection) && total > 0 ? ` ${(100 * (1 - left / total)).toFixed(1)} %` : ''
  const frozen = volume.suspended.length > 0 ? ` <span class="bad">frozen: ${volume.suspended.join(', ')}</span>` : ''
  const cells = [
    escaped(volume.exportName),
    `${(volume.sizeSectors / 2048).toFixed(1)} MiB`,
    word(volume.disk) + frozen,
    word(volume.peerDisk),
    word(replicationWord(volume.connection)) + done,
    `${volume.outOfSyncBlocks * 4} KiB`,
    String(volume.openCount),
  ]
  return `<tr>${cells.map((cell) => `<td>${cell}</td>`).join('')}</tr>`
}

const word = (text: string): string => `<span class="${GOOD.has(text) ? 'good' : 'bad'}">${escaped(text)}</span>`

const ENTITIES: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
}
const escaped = (text: string): string => text.replace(/[&<>"']/g, (c) => ENTITIES[c] as string)
