package envoy

// RenderOn is Render on a kernel that has IPv6 or has not.
func RenderOn(a Addresses, ipv6 bool) ([]byte, error) { return render(a, func() bool { return ipv6 }) }
