package envoymodule

import (
	"strings"

	"github.com/envoyproxy/envoy/source/extensions/dynamic_modules/sdk/go/shared"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

// read reads the Request from the headers and the route. Its strings refer to Envoy's memory: they
// are valid until this callback returns or changes the headers.
func (f *filter) read(headers shared.HeaderMap) {
	r := &f.request
	lists := [...]*[]string{&r.Authorization, &r.Cookie, &r.Origin, &r.SecFetchSite, &r.ContentType}
	for i, list := range lists {
		*list = f.first[i : i : i+1]
	}
	for _, header := range headers.GetAll() {
		name, value := header[0].ToUnsafeString(), header[1].ToUnsafeString()
		switch name { // Envoy's names are lower case
		case ":method":
			r.Method = value
		case ":path":
			r.Path = value
		case ":authority":
			r.Host = value
		case "authorization":
			r.Authorization = append(r.Authorization, value)
		case "cookie":
			r.Cookie = append(r.Cookie, value)
		case "origin":
			r.Origin = append(r.Origin, value)
		case "sec-fetch-site":
			r.SecFetchSite = append(r.SecFetchSite, value)
		case "content-type":
			r.ContentType = append(r.ContentType, value)
		default:
			if credential.IsReserved(name) {
				r.Reserved = append(r.Reserved, strings.Clone(name)) // it is removed by this name
			}
		}
	}
	if config := f.handle.GetMostSpecificConfig(); config != nil {
		r.Required = &config.(*route).required // a panic is answered with 503
	}
}

// own copies what refers to Envoy's memory.
func (f *filter) own() {
	r := &f.request
	for _, s := range []*string{&r.Method, &r.Host, &r.Path} {
		*s = strings.Clone(*s)
	}
	for _, list := range [][]string{r.Authorization, r.Cookie, r.Origin, r.SecFetchSite, r.ContentType} {
		for i := range list {
			list[i] = strings.Clone(list[i])
		}
	}
}
