package agent

import "testing"

func TestParseStalled(t *testing.T) {
	for in, want := range map[string]float64{
		"some avg10=1.53 avg60=0.87 avg300=0.20 total=123\nfull avg10=9.00 avg60=0.80 avg300=0.10 total=99\n": 1.53,
		"some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n":                                                    0,
		"": -1, "some": -1, "some avg10=x": -1, "some avg10=": -1,
	} {
		if got := parseStalled(in); got != want {
			t.Errorf("%q: got %v, want %v", in, got, want)
		}
	}
}

func TestHostMemory(t *testing.T) {
	m, err := hostMemory()
	if err != nil || m.TotalMiB <= 0 || m.AvailableMiB <= 0 || m.AvailableMiB > m.TotalMiB || m.Stalled > 100 {
		t.Errorf("got %+v, %v", m, err)
	}
}
