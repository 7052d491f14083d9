package ipvsadm

import (
	"encoding/binary"
	"net/netip"

	"github.com/pointsman/pointsman/ipvs"
)

// ipvsadm compares by subtracting 32-bit numbers and looking at the sign, so two numbers further apart
// than 2^31 compare the wrong way round: 192.0.2.1 comes before 10.0.0.1. Such an order is not
// transitive, so the result depends on the sorting algorithm too. It is the C library's: a merge sort
// from the top, the left half being the smaller.

// sorted gives a sorted copy.
func sorted[T any](list []T, compare func(a, b *T) int32) []T {
	index := make([]*T, len(list))
	for i := range list {
		index[i] = &list[i]
	}
	mergeSort(index, make([]*T, len(list)), compare)
	result := make([]T, len(list))
	for i, v := range index {
		result[i] = *v
	}
	return result
}

func mergeSort[T any](list, scratch []*T, compare func(a, b *T) int32) {
	if len(list) < 2 {
		return
	}
	left, right := list[:len(list)/2], list[len(list)/2:]
	mergeSort(left, scratch, compare)
	mergeSort(right, scratch, compare)
	merged := scratch[:0]
	for len(left) > 0 && len(right) > 0 {
		if compare(left[0], right[0]) <= 0 {
			merged, left = append(merged, left[0]), left[1:]
		} else {
			merged, right = append(merged, right[0]), right[1:]
		}
	}
	merged = append(append(merged, left...), right...)
	copy(list, merged)
}

// words is an address as four 32-bit numbers, an IPv4 address in the first.
func words(a netip.Addr) (w [4]uint32) {
	b := a.AsSlice()
	for i := range len(b) / 4 {
		w[i] = binary.BigEndian.Uint32(b[4*i:])
	}
	return w
}

func compareAddrs(a, b netip.Addr) int32 {
	v, w := words(a), words(b)
	n := 1
	if a.Is6() { // the left one decides how much is compared
		n = 4
	}
	for i := range n {
		if d := int32(v[i] - w[i]); d != 0 {
			return d
		}
	}
	return 0
}

func compareServices(a, b *ipvs.ServiceInfo) int32 {
	if d := int32(a.Mark - b.Mark); d != 0 {
		return d
	}
	if a.Addr.Is4() != b.Addr.Is4() {
		if a.Addr.Is4() {
			return -1
		}
		return 1
	}
	if d := int32(a.Protocol) - int32(b.Protocol); d != 0 {
		return d
	}
	if d := compareAddrs(a.Addr, b.Addr); d != 0 {
		return d
	}
	return int32(a.Port) - int32(b.Port)
}

func compareReals(a, b *ipvs.RealInfo) int32 {
	if d := compareAddrs(a.Addr, b.Addr); d != 0 {
		return d
	}
	return int32(a.Port) - int32(b.Port)
}
