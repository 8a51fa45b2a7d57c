package known

import "testing"

func TestKnown(t *testing.T) {
	if Least(1, 2) != 1 || Least(2, 1) != 1 {
		t.Error("Least")
	}
	Wait(3)
	if h, err := Half(8); h != 4 || err != nil {
		t.Error("Half of 8")
	}
	if _, err := Half(7); err == nil {
		t.Error("Half of 7")
	}
}
