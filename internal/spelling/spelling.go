// Package spelling finds what a person who mistyped a name may have meant.
package spelling

// Nearest returns the word that is at most two typing slips from s, "" when none is.
func Nearest(s string, words []string) string {
	best, dist := "", 3
	for _, w := range words {
		if n := slips(s, w); n < dist && n < len(w) {
			best, dist = w, n
		}
	}
	return best
}

// slips counts the characters to insert, remove or replace to come from a to b.
// Long words count as far apart.
func slips(a, b string) int {
	const far = 99
	if len(a) > 64 || len(b) > 64 {
		return far
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replace := diagonal
			if a[i] != b[j] {
				replace++
			}
			diagonal = row[j+1]
			row[j+1] = min(replace, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
