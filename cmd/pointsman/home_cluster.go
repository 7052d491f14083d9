package main

import (
	"context"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/endpoints"
	"github.com/pointsman/pointsman/endpoints/cluster"
	"github.com/pointsman/pointsman/rollout"
)

// clusterHome is an API server.
type clusterHome struct{ *cluster.Declarations }

func (h clusterHome) all(ctx context.Context) ([]*declared, error) {
	list, err := h.List(ctx, "")
	if err != nil {
		return nil, err
	}
	var out []*declared
	for i := range list {
		out = append(out, declaredIn(&list[i]))
	}
	return out, nil
}

func (h clusterHome) look(ctx context.Context, key types.NamespacedName) (*declared, error) {
	vs, err := h.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	return declaredIn(vs), nil
}

func declaredIn(vs *v1alpha1.VirtualServer) *declared {
	full := vs.DeepCopy()
	v1alpha1.Default(full)
	d := &declared{
		key: types.NamespacedName{Namespace: vs.Namespace, Name: vs.Name}, spec: &full.Spec, object: vs,
		state: rollout.FromStatus(&vs.Status), colours: map[string]rollout.Colour{},
	}
	for _, c := range vs.Status.Colours {
		d.colours[c.Name] = rollout.Colour{All: int(c.Endpoints), Ready: int(c.Ready)}
	}
	accepted := meta.FindStatusCondition(vs.Status.Conditions, v1alpha1.ConditionAccepted)
	if accepted != nil && accepted.Status == metav1.ConditionFalse {
		d.refused = &endpoints.Refusal{Reason: accepted.Reason, Message: accepted.Message}
	}
	return d
}

func (h clusterHome) change(ctx context.Context, was *declared, c endpoints.Change) (*declared, error) {
	vs, err := h.Change(ctx, was.object, c)
	if err != nil {
		return nil, err
	}
	return declaredIn(vs), nil
}

func (h clusterHome) follower(written *declared) follower {
	return &clusterFollower{home: h, written: written}
}

// clusterFollower looks at the object that was written.
type clusterFollower struct {
	home    clusterHome
	written *declared
}

func (f *clusterFollower) see(ctx context.Context) (sighting, error) {
	vs, err := f.home.Get(ctx, f.written.key)
	if err != nil {
		return sighting{}, err
	}
	d := declaredIn(vs)
	out := sighting{
		declared: vs.Spec.Active, state: d.state,
		total: int(vs.Status.Nodes.Total), staged: int(vs.Status.Nodes.Staged), switched: int(vs.Status.Nodes.Switched),
	}
	if vs.UID != f.written.object.UID {
		out.declared = "" // another object of the same name
		return out, nil
	}
	// A status is written only over the object that it was made of. So one that is another than that of the
	// moment of the declaration answers it, or a later one.
	out.answered = !d.state.Equal(f.written.state) || settled(d.spec, d.state)
	c := meta.FindStatusCondition(vs.Status.Conditions, v1alpha1.ConditionSwitched)
	switch {
	case c == nil || c.ObservedGeneration < f.written.object.Generation:
		out.lacks = "no daemon has seen the change yet (is pointsman running on the nodes?)"
	case c.Status == metav1.ConditionTrue:
		out.verified = true
	default:
		out.lacks = c.Reason + ": " + c.Message
	}
	return out, nil
}

func (f *clusterFollower) picture(ctx context.Context) (*picture, error) {
	vs, err := f.home.Get(ctx, f.written.key)
	if err != nil {
		return nil, err
	}
	reports, err := f.home.Reports(ctx)
	if err != nil {
		return nil, err
	}
	p := pictureOf(vs, reports)
	return &p, nil
}
