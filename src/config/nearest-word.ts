// "Did you mean ...?": the word of a list that is nearest to a mistyped one. Distance: Damerau-Levenshtein with adjacent
// transpositions (optimal string alignment), so that 'pnig-int' is one step from 'ping-int'.

const WORD_LENGTH_MAX = 64

export function editDistance(left: string, right: string): number {
  let twoBack: number[] = []
  let previous = Array.from({ length: right.length + 1 }, (_, index) => index)
  for (let i = 1; i <= left.length; i++) {
    const current = [i]
    for (let j = 1; j <= right.length; j++) {
      const same = left[i - 1] === right[j - 1]
      let best = Math.min(
        (previous[j] as number) + 1,
        (current[j - 1] as number) + 1,
        (previous[j - 1] as number) + (same ? 0 : 1),
      )
      const swapped = i > 1 && j > 1 && left[i - 1] === right[j - 2] && left[i - 2] === right[j - 1]
      if (swapped) best = Math.min(best, (twoBack[j - 2] as number) + 1)
      current.push(best)
    }
    twoBack = previous
    previous = current
  }
  return previous[right.length] as number
}

/** The nearest word, if any is near enough to be worth suggesting; of equals the first one listed. */
export function nearestWord(word: string, candidates: Iterable<string>): string | undefined {
  if (word.length === 0 || word.length > WORD_LENGTH_MAX) return undefined
  const lowered = word.toLowerCase()
  let nearest: string | undefined
  let nearestDistance = Math.max(1, Math.floor(word.length / 3)) + 1
  for (const candidate of candidates) {
    if (Math.abs(candidate.length - word.length) >= nearestDistance) continue
    const distance = editDistance(lowered, candidate.toLowerCase())
    if (distance < nearestDistance) {
      nearest = candidate
      nearestDistance = distance
    }
  }
  return nearest
}

export function didYouMean(word: string, candidates: Iterable<string>): string {
  const nearest = nearestWord(word, candidates)
  return nearest === undefined ? '' : `Did you mean '${nearest}'?`
}
