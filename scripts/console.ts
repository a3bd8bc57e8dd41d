// What people see while a script runs: lines with the time since the start, and tables.

const begunMs = performance.now()
let lastProgressMs = 0
const PROGRESS_INTERVAL_MS = 1000

export const elapsedSeconds = (): number => (performance.now() - begunMs) / 1000

export function say(text: string): void {
  process.stdout.write(`[${elapsedSeconds().toFixed(1).padStart(5)} s] ${text}\n`)
}

/** As `say`, at most once in a second: for what changes all the time. */
export function sayProgress(text: () => string): void {
  const nowMs = performance.now()
  if (nowMs - lastProgressMs < PROGRESS_INTERVAL_MS) return
  lastProgressMs = nowMs
  say(`    ${text()}`)
}

export function print(text = ''): void {
  process.stdout.write(`${text}\n`)
}

/** Columns as wide as their widest cell; `alignRight` names the columns of numbers. */
export function formatTable(rows: readonly (readonly string[])[], alignRight: readonly number[] = []): string[] {
  const columns = Math.max(0, ...rows.map((row) => row.length))
  const widths = Array.from({ length: columns }, (_, i) => Math.max(...rows.map((row) => row[i]?.length ?? 0)))
  return rows.map((row) =>
    row
      .map((cell, i) => (alignRight.includes(i) ? cell.padStart(widths[i] ?? 0) : cell.padEnd(widths[i] ?? 0)))
      .join('  ')
      .trimEnd(),
  )
}

/** 1234567 as 1,234,567, without a locale. */
export const thousands = (value: number): string => String(Math.round(value)).replace(/\B(?=(\d{3})+$)/g, ',')

export const mebibytes = (bytes: number): string =>
  `${(bytes / 1024 / 1024).toFixed(bytes < 10 * 1024 * 1024 ? 1 : 0)} MiB`
