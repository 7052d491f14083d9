package rollout

import (
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pointsman/pointsman/api/v1alpha1"
)

// No field may be forgotten: two States that differ in any one are not the same, and those that hold equal things are.
func TestEqual(t *testing.T) {
	full := func() State {
		s := State{History: []v1alpha1.SwitchRecord{{To: "v1"}}, Hooks: v1alpha1.HooksStatus{Before: &v1alpha1.HookStatus{Calls: 1}}, Started: time.Unix(1, 0)}
		return s
	}
	require.True(t, State{}.Equal(State{}))
	one := full()
	require.True(t, one.Equal(one))
	require.True(t, one.Equal(full()), "what is equal need not be shared")
	require.False(t, State{History: []v1alpha1.SwitchRecord{}}.Equal(State{}), "as encoded, it is not the same")
	for i := range reflect.TypeFor[State]().NumField() {
		for _, base := range []State{{}, full()} {
			other := base
			f := reflect.ValueOf(&other).Elem().Field(i)
			switch name := reflect.TypeFor[State]().Field(i).Name; f.Interface().(type) {
			case string, v1alpha1.Phase:
				f.SetString("other")
			case int32, int64:
				f.SetInt(7)
			case bool:
				f.SetBool(true)
			case time.Time:
				f.Set(reflect.ValueOf(time.Unix(7, 0)))
			case v1alpha1.HooksStatus:
				f.Set(reflect.ValueOf(v1alpha1.HooksStatus{After: &v1alpha1.HookStatus{}}))
			case []v1alpha1.SwitchRecord:
				f.Set(reflect.ValueOf([]v1alpha1.SwitchRecord{{To: "other"}}))
			default:
				t.Fatalf("what is another %s?", name)
			}
			require.False(t, base.Equal(other), reflect.TypeFor[State]().Field(i).Name)
		}
	}
}
