package oauth

// The reasons, each beside its wire code and its sentence in the table below.
const (
	Internal           Reason = "internal"
	StorageUnavailable Reason = "storage_unavailable"
	OutcomeUnknown     Reason = "outcome_unknown"
	ServerBusy         Reason = "server_busy"
	RateLimited        Reason = "rate_limited"
	FeedUnknown        Reason = "feed_unknown"
	FeedGone           Reason = "feed_gone"

	ParamMissing   Reason = "param_missing"
	ParamRepeated  Reason = "param_repeated"
	ParamTooLong   Reason = "param_too_long"
	ParamMalformed Reason = "param_malformed"
	ParamPlace     Reason = "param_place"

	ClientUnknown     Reason = "client_unknown"
	APIUnknown        Reason = "api_unknown"
	ClientSuspended   Reason = "client_suspended"
	ClientIDMissing   Reason = "client_id_missing"
	ClientAuthMissing Reason = "client_auth_missing"
	ClientAuthTwice   Reason = "client_auth_twice"
	ClientAuthMethod  Reason = "client_auth_method"
	SecretWrong       Reason = "secret_wrong"
	APIKeyWrong       Reason = "api_key_wrong"
	ProfileMismatch   Reason = "profile_mismatch"

	RedirectMissing      Reason = "redirect_missing"
	RedirectUnregistered Reason = "redirect_unregistered"
	RedirectTruncated    Reason = "redirect_truncated"
	ResponseType         Reason = "response_type"
	ScopeUnknown         Reason = "scope_unknown"
	ChallengeMissing     Reason = "challenge_missing"
	ChallengeMethod      Reason = "challenge_method"
	ChallengeMalformed   Reason = "challenge_malformed"
	RequestExpired       Reason = "request_expired"
	RequestForeign       Reason = "request_foreign"
	RequestSpent         Reason = "request_spent"
	RequestOver          Reason = "request_over"
	UserDenied           Reason = "user_denied"
	DecidedTooOften      Reason = "decided_too_often"
	UserSuspended        Reason = "user_suspended"
	StoreNone            Reason = "store_none"
	StoreForeign         Reason = "store_foreign"
	NothingToGrant       Reason = "nothing_to_grant"
	GrantUnknown         Reason = "grant_unknown"
	NothingLeft          Reason = "nothing_left"
	GrantSuspended       Reason = "grant_suspended"

	GrantTypeUnknown    Reason = "grant_type_unknown"
	GrantTypeNotAllowed Reason = "grant_type_not_allowed"
	CodeUnknown         Reason = "code_unknown"
	CodeForeign         Reason = "code_foreign"
	CodeExpired         Reason = "code_expired"
	CodeUsed            Reason = "code_used"
	CodeRedirect        Reason = "code_redirect"
	VerifierMissing     Reason = "verifier_missing"
	VerifierUnexpected  Reason = "verifier_unexpected"
	VerifierWrong       Reason = "verifier_wrong"
	GrantDead           Reason = "grant_dead"
	NoRights            Reason = "no_rights"
	RefreshUnknown      Reason = "refresh_unknown"
	RefreshForeign      Reason = "refresh_foreign"
	RefreshExpired      Reason = "refresh_expired"
	RefreshReplayed     Reason = "refresh_replayed"
	ScopeWidened        Reason = "scope_widened"

	GuestTokenWrong Reason = "guest_token_wrong"
	Prefetch        Reason = "prefetch"

	NotSignedIn   Reason = "not_signed_in"
	NotPermitted  Reason = "not_permitted"
	NoSuch        Reason = "no_such"
	Changed       Reason = "changed_meanwhile"
	TooMany       Reason = "too_many"
	FieldRequired Reason = "field_required"

	ScopeNotInCatalogue Reason = "scope_not_in_catalogue"

	FieldTooLong Reason = "field_too_long"
	FieldUnclean Reason = "field_unclean"
	NameReserved Reason = "name_reserved"
	NameTaken    Reason = "name_taken"
	LinkNotHTTPS Reason = "link_not_https"
	LinkReserved Reason = "link_reserved"
	LastSecret   Reason = "last_secret"
	IDTaken      Reason = "id_taken"
	IDMalformed  Reason = "id_malformed"
	IDIsURL      Reason = "id_is_url"
	IDNotPlain   Reason = "id_not_plain"
	IDNotUUID    Reason = "id_not_uuid"
	AppTooMany   Reason = "app_too_many"

	RedirectNotAbsolute Reason = "redirect_not_absolute"
	RedirectFragment    Reason = "redirect_fragment"
	RedirectUserinfo    Reason = "redirect_userinfo"
	RedirectWildcard    Reason = "redirect_wildcard"
	RedirectNotHTTPS    Reason = "redirect_not_https"
	RedirectScheme      Reason = "redirect_scheme"
	RedirectUnclean     Reason = "redirect_unclean"
	RedirectDuplicate   Reason = "redirect_duplicate"
	RedirectTooMany     Reason = "redirect_too_many"
	RedirectTooLong     Reason = "redirect_too_long"
	RedirectURNOnly     Reason = "redirect_urn_only"
)

// reasons is the one table: reason, wire code, and a sentence for the one who
// must act. No sentence repeats what was sent (RFC 6749, 5.2; attack G10).
var reasons = map[Reason]struct {
	code  Code
	text  string
	param string
}{
	Internal:           {ServerError, "The server met an error of its own. Try again; the request id names it in the log.", ""},
	StorageUnavailable: {TemporarilyUnavailable, "The server cannot reach its database. Try again in a moment.", ""},
	OutcomeUnknown:     {TemporarilyUnavailable, "The server cannot tell whether this took effect. Look before you repeat it.", ""},

	FeedUnknown: {TemporarilyUnavailable, "This node does not know the present state of the database. Ask another one, or try again in a moment.", ""},
	FeedGone:    {InvalidRequest, "What happened since is not known any longer, or too much to tell. Begin without after and epoch.", ""},

	ServerBusy: {TemporarilyUnavailable, "The server is busy. Try again in a moment.", ""},
	// RFC 6749, 5.2 has no code for it. slow_down is the device grant's (RFC 8628,
	// 3.5): its clients would begin to poll.
	RateLimited: {TemporarilyUnavailable, "There were too many requests. Wait as long as Retry-After says, then try again.", ""},

	ParamMissing:   {InvalidRequest, "The parameter %s is required.", ""},
	ParamRepeated:  {InvalidRequest, "The parameter %s may be sent only once.", ""},
	ParamTooLong:   {InvalidRequest, "The parameter %s is too long.", ""},
	ParamMalformed: {InvalidRequest, "The parameter %s is not of the form it must have.", ""},
	ParamPlace:     {InvalidRequest, "The parameter %s belongs in a form-encoded body.", ""},

	ClientUnknown:     {InvalidClient, "No app has this client id. The id of an API does not work here.", "client_id"},
	APIUnknown:        {InvalidClient, "No API has this client id. The id and secret of an app do not work here.", "client_id"},
	ClientIDMissing:   {InvalidClient, "The parameter client_id is required.", "client_id"},
	ClientSuspended:   {UnauthorizedClient, "This app is suspended.", "client_id"},
	ClientAuthMissing: {InvalidClient, "Authenticate with the client id and its secret.", "client_secret"},
	ClientAuthTwice:   {InvalidRequest, "Authenticate by one method only.", "client_secret"},
	ClientAuthMethod:  {InvalidClient, "This app does not authenticate in this way.", ""},
	SecretWrong:       {InvalidClient, "The client secret does not belong to this client id.", "client_secret"},
	APIKeyWrong:       {InvalidClient, "The x-api-key header is not this app's key.", "x-api-key"},
	ProfileMismatch:   {UnauthorizedClient, "This app uses another endpoint: see its page in the developer portal.", "client_id"},

	RedirectMissing:      {InvalidRequest, "The parameter redirect_uri is required.", "redirect_uri"},
	RedirectUnregistered: {InvalidRequest, "The redirect_uri is not one of the URLs that this app registered.", "redirect_uri"},
	RedirectTruncated:    {InvalidRequest, "The redirect_uri stops at an ampersand: percent-encode redirect_uri.", "redirect_uri"},
	ResponseType:         {UnsupportedResponseType, "response_type must be code.", "response_type"},
	ScopeUnknown:         {InvalidScope, "The scope asks for something that this app did not register.", "scope"},
	ChallengeMissing:     {InvalidRequest, "code_challenge is required, with code_challenge_method=S256.", "code_challenge"},
	ChallengeMethod:      {InvalidRequest, "code_challenge_method must be S256.", "code_challenge_method"},
	ChallengeMalformed:   {InvalidRequest, "code_challenge must be 43 characters of base64url without padding.", "code_challenge"},
	RequestExpired:       {InvalidRequest, "This request is older than ten minutes. Start again from the app.", ""},
	RequestForeign:       {InvalidRequest, "This request belongs to another sign-in. Start again from the app.", ""},
	RequestOver:          {InvalidRequest, "What this request gave has ended. Start again from the app.", ""},
	RequestSpent:         {InvalidRequest, "This request was answered already. Start again from the app.", ""},
	UserDenied:           {AccessDenied, "The user declined.", ""},
	DecidedTooOften:      {Conflict, "This account has decided about apps very often in a short time. Wait a minute, then try again.", ""},
	UserSuspended:        {AccessDenied, "This account is suspended.", ""},
	StoreNone:            {Incorrect, "Choose at least one store.", "store"},
	StoreForeign:         {Incorrect, "One of the stores is not yours to connect. Choose again.", "store"},
	NothingLeft:          {Incorrect, "Nothing would be left. Leave one permission, or take the store out.", "scope"},
	NothingToGrant:       {AccessDenied, "Your account has no store that this app could be connected to.", ""},
	GrantSuspended:       {InvalidGrant, "This connection is suspended.", ""},

	GrantUnknown: {InvalidGrantID, "No grant of this app has this id.", "grant_id"},

	GrantTypeUnknown:    {UnsupportedGrantType, "grant_type must be authorization_code or refresh_token.", "grant_type"},
	GrantTypeNotAllowed: {UnauthorizedClient, "This app may not use this grant_type.", "grant_type"},
	CodeUnknown:         {InvalidGrant, "The code is unknown or was used already.", "code"},
	CodeForeign:         {InvalidGrant, "The code is unknown or was used already.", "code"},
	CodeExpired:         {InvalidGrant, "The code has expired. Codes are valid for one minute.", "code"},
	CodeUsed:            {InvalidGrant, "The code is unknown or was used already.", "code"},
	CodeRedirect:        {InvalidGrant, "redirect_uri differs from the one in the authorization request.", "redirect_uri"},
	VerifierMissing:     {InvalidGrant, "code_verifier is required: the authorization request had a code_challenge.", "code_verifier"},
	VerifierUnexpected:  {InvalidRequest, "code_verifier was sent, but the authorization request had no code_challenge.", "code_verifier"},
	VerifierWrong:       {InvalidGrant, "code_verifier does not match the code_challenge.", "code_verifier"},
	GrantDead:           {InvalidGrant, "The user's permission has ended.", ""},
	NoRights:            {InvalidGrant, "Nothing is left of what the user allowed.", ""},
	RefreshUnknown:      {InvalidGrant, "The refresh token is unknown or revoked.", "refresh_token"},
	RefreshForeign:      {InvalidGrant, "The refresh token is unknown or revoked.", "refresh_token"},
	RefreshExpired:      {InvalidGrant, "The refresh token has expired.", "refresh_token"},
	RefreshReplayed:     {InvalidGrant, "The refresh token was replaced and used again, so its chain was revoked.", "refresh_token"},
	ScopeWidened:        {InvalidScope, "The scope is wider than what was granted.", "scope"},

	GuestTokenWrong: {InvalidRequest, "x-dressipi-jwt is not a live guest token of this app.", "x-dressipi-jwt"},
	Prefetch:        {InvalidRequest, "A code is not exchanged by a prefetch or by opening a link.", ""},

	NotSignedIn:   {Forbidden, "Sign in first.", ""},
	NotPermitted:  {NotFound, "There is no such thing here, or it is not yours.", ""},
	NoSuch:        {NotFound, "There is no such thing here, or it is not yours.", ""},
	Changed:       {Conflict, "Somebody changed this meanwhile. Look again, then repeat.", ""},
	TooMany:       {Conflict, "There are two secrets already. Revoke one before you add another.", ""},
	FieldRequired: {Incorrect, "Fill this in.", ""},

	ScopeNotInCatalogue: {Incorrect, "Not in the catalogue: %s.", ""},

	FieldTooLong: {Incorrect, "Make this shorter.", ""},
	FieldUnclean: {Incorrect, "Use letters, digits, spaces and plain punctuation.", ""},
	NameTaken:    {Incorrect, "This name could be taken for that of a verified app. Choose another.", ""},
	NameReserved: {Incorrect, "This name could be taken for the platform itself. Choose another.", ""},
	LinkNotHTTPS: {Incorrect, "Write a full address that starts with https://.", ""},
	LinkReserved: {Incorrect, "This address is the platform's own. Write one of yours.", ""},
	LastSecret:   {Conflict, "This is the only secret. Add a new one first.", ""},
	IDTaken:      {Conflict, "This id is in use.", ""},
	IDMalformed:  {Incorrect, "An id has 1 to 255 bytes, no spaces and no control characters.", ""},
	IDIsURL:      {Incorrect, "The id of an app does not begin with https://.", ""},
	IDNotPlain:   {Incorrect, "The id of a direct app has printable ASCII characters only, and none of > ? ~.", ""},
	IDNotUUID:    {Incorrect, "The id of an exchange app is a UUID, such as 7d0c6a8e-1f2b-4c3d-8e9f-0a1b2c3d4e5f.", ""},
	AppTooMany:   {Conflict, "One user makes at most 100 apps within a day. Try again tomorrow.", ""},

	RedirectNotAbsolute: {Incorrect, "Write the whole address, with https:// and the host.", "redirect_uri"},
	RedirectFragment:    {Incorrect, "Remove the # and what follows it.", "redirect_uri"},
	RedirectUserinfo:    {Incorrect, "Remove the user name before the @.", "redirect_uri"},
	RedirectWildcard:    {Incorrect, "Write out each address: a * matches nothing.", "redirect_uri"},
	RedirectNotHTTPS:    {Incorrect, "Use https. Plain http works only for 127.0.0.1, [::1] and localhost.", "redirect_uri"},
	RedirectScheme:      {Incorrect, "Use https, or for an installed app a scheme with a dot in it, such as com.example.app.", "redirect_uri"},
	RedirectUnclean:     {Incorrect, "Remove spaces, backslashes, control characters and letters outside ASCII, also escaped ones in the host.", "redirect_uri"},
	RedirectDuplicate:   {Incorrect, "This address is listed already.", "redirect_uri"},
	RedirectTooMany:     {Incorrect, "An app has at most 10 redirect addresses.", "redirect_uri"},
	RedirectTooLong:     {Incorrect, "Use at most 2,048 characters.", "redirect_uri"},
	RedirectURNOnly:     {Incorrect, "This kind of app has exactly one redirect: urn:ietf:wg:oauth:2.0:oob:auto.", "redirect_uri"},
}

// Reasons lists every reason with its wire code, for documents and tests.
func Reasons() map[Reason]Code {
	m := make(map[Reason]Code, len(reasons))
	for r, row := range reasons {
		m[r] = row.code
	}
	return m
}
