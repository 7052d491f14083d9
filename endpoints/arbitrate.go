package endpoints

import (
	"fmt"
	"maps"
	"slices"

	"github.com/pointsman/pointsman/endpoints/manifest"
)

// candidate is one file as it is now and as it was last in force; either may be nil.
type candidate struct {
	parsed, accepted *manifest.File
	// leaving: the file was not there when last looked for. It yields without complaint to one that has
	// an object of its own, as after a rename.
	leaving bool
}

// arbitrate decides which content of each file is in force: the present one where it parsed and no
// other file has one of its objects, else the last accepted one. An object in two files stays with
// the file that had it before, else with the one whose name sorts first; the other file is held back
// whole, with an error. It is pure.
func arbitrate(candidates map[string]candidate) (inForce map[string]*manifest.File, errs map[string]string) {
	names := slices.Sorted(maps.Keys(candidates))
	inForce, errs = make(map[string]*manifest.File, len(names)), map[string]string{}
	for _, name := range names {
		c := candidates[name]
		inForce[name] = c.parsed
		if c.parsed == nil {
			inForce[name] = c.accepted
		}
	}
	// Each round holds back or empties at least one file, and no file twice, so it ends.
	for {
		loser, message := conflict(names, candidates, inForce)
		if loser == "" {
			return inForce, errs
		}
		switch c := candidates[loser]; {
		case c.leaving:
			inForce[loser] = nil
			continue
		case inForce[loser] != c.accepted:
			inForce[loser] = c.accepted
		default:
			inForce[loser] = nil // only if the accepted copies were tampered with
		}
		errs[loser] = message
	}
}

// conflict finds the first object that two files declare, and the file that must yield it.
func conflict(names []string, candidates map[string]candidate, inForce map[string]*manifest.File) (loser, message string) {
	owner := make(map[manifest.Key]string)
	for _, name := range names {
		if inForce[name] == nil {
			continue
		}
		for _, key := range inForce[name].Keys {
			other, taken := owner[key]
			if !taken {
				owner[key] = name
				continue
			}
			winner, loser := other, name
			if claimOn(key, candidates[name], inForce[name]) > claimOn(key, candidates[other], inForce[other]) {
				winner, loser = name, other
			}
			return loser, fmt.Sprintf("%s: %s is declared in %s already; remove it from one of the two files", loser, key, winner)
		}
	}
	return "", ""
}

// claimOn is how good a file's claim on an object is: a file that is held at its accepted content
// cannot yield, one that had the object before need not.
func claimOn(key manifest.Key, c candidate, inForce *manifest.File) int {
	switch {
	case c.leaving:
		return -1
	case inForce == c.accepted:
		return 2
	case c.accepted != nil && slices.Contains(c.accepted.Keys, key):
		return 1
	}
	return 0
}
