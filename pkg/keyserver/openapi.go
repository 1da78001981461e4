package keyserver

import (
	"context"
	_ "embed"
	"net/http"
)

const descriptionPath = "/openapi.yaml"

// description is the OpenAPI document of all three sides.
//
//go:embed openapi.yaml
var description string

// text is a body that is sent as it is.
type text string

// describe is every side's, and for everybody: tools that make clients ask without a
// token, and there is nothing in it that the source does not tell.
var describe = route{
	method: http.MethodGet,
	path:   descriptionPath,
	public: true,
	do: func(context.Context, *call) (answer, error) {
		return answer{
			status: http.StatusOK,
			body:   text(description),
			header: map[string]string{"Content-Type": "application/yaml"},
		}, nil
	},
}
