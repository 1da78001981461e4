package main

import (
	"bytes"
	"os"
	"testing"
)

func TestFileIsCurrent(t *testing.T) {
	want, err := generate()
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("dashboard.json differs from the tables: run go generate ./... in monitoring")
	}
}
